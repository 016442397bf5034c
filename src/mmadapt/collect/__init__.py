"""Tables and figures as a pure function of result files.
