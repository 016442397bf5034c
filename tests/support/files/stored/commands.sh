# Made by the code of c62c257, before the files were moved; the tables by python -m mmadapt.collect before/<protocol>.
python -m mmadapt -m tag=before method=zero_shot,linear_probe,clip_adapter,tip_adapter,tip_adapter_f,mm_adapter,xmadapter shots=2 seed=1
python -m mmadapt -m tag=before method=coop,cocoop,maple,comma method.epochs=2 shots=2 seed=1
python -m mmadapt -m tag=before protocol=base_to_new method=zero_shot,clip_adapter,mm_adapter shots=2 seed=1
python -m mmadapt -m tag=before protocol=base_to_new method=coop method.epochs=2 shots=2 seed=1
python -m mmadapt -m tag=before protocol=domain_generalization data=shapes method=zero_shot,tip_adapter_f,linear_probe shots=2 seed=1
