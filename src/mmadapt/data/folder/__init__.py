"""Own images: folders of classes, or a CSV."""

from mmadapt.data.folder.dataset import FolderData as FolderData
