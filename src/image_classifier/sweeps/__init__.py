"""src/sweep.py: runs many trials with different parameters and saves each as an experiment.

sweep_file   the format of a sweep file such as sweeps/learning_rate.yaml
study        Optuna's record of the trials, and the choice of the next one
runner       runs trials on a pool of processes and saves each as an experiment
trials       the processes, each in its own copy of the project, and a pool of them
worker       the program that runs in such a process
ray_pool     a pool whose processes run on the machines of a Ray cluster
ray_trials   the remote side of such a process
ray_files    the files of a sweep on such a machine, and their removal
plots        plots of a sweep
table        the printed table of trials

How a trial runs: `SweepRunner` lets Optuna choose the parameters and passes them to a pool, a
`TrialPool` or a `ClusterPool`. `run_trial` runs the trial on one of the pool's processes, a
`TrialProcess` or a `RemoteProcess`, by two methods:

    begin(parameters)           name -> value of the parameters that differ from params.yaml
    continue_or_stop(wanted)    after each epoch but the last: continue the trial, or stop it

Each returns a dict, or raises `TrialError`:

    {"epoch": 1, "metrics": {"accuracy": ..., "loss": ...}}    validation metrics after an epoch
    {"metrics": ..., "tree": ...}    at the end: metrics of the best epoch, Git tree of the files

A `TrialProcess` prepares the data, if the parameters require other data, and exchanges lines of
JSON with its worker. It sends the parameters, then "continue" or "stop" after each epoch. The
worker replies with the dicts above, without "tree", or with {"error": one line}. A `RemoteProcess`
calls the methods of the same names of `RemoteTrials`, an actor that holds a `TrialProcess`. Its
last reply also has Git's objects as "pack" and the pieces of new outputs as "blocks"; the
`ClusterPool` then fetches these outputs.
"""
