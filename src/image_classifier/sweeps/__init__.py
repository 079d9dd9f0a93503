"""src/sweep.py: many trials, each with other parameters, saved as an experiment.

sweep_file   what a file such as sweeps/learning_rate.yaml may say
study        which trials there were, and which come next
runner       trials on a pool of processes, each saved as an experiment
trials       the processes, in copies of the repository, and a pool of them
worker       what runs in such a process
ray_pool     a pool whose processes are on the machines of a Ray cluster
ray_trials   the far end of such a process
plots        plots of a sweep

The way of a trial: `SweepRunner` lets Optuna choose its parameters and gives them to a pool, a
`TrialPool` or a `ClusterPool`. `run_trial` runs it on one of the pool's processes, a `TrialProcess`
or a `RemoteProcess`, by two calls:

    begin(parameters)    from name to value, of those that differ from params.yaml
    go_on(wanted)        after each epoch but the last: continue the trial, or stop it

Each returns what comes next, or raises `TrialError`:

    {"epoch": 1, "metrics": {"accuracy": ..., "loss": ...}}    on validation images, after an epoch
    {"metrics": ..., "tree": ...}    in the end: of the best epoch, and Git's tree of the files

A `TrialProcess` prepares the data, if the parameters ask for other data, and talks to its worker in
lines of JSON. It sends the parameters, then "go on" or "stop" after each epoch. The worker answers
with the dicts above, without "tree", or with {"error": one line}. A `RemoteProcess` calls the
methods of the same names of `RemoteTrials`, an actor that holds a `TrialProcess`; its last answer
has Git's objects as "pack" and the pieces of new outputs as "blocks" besides, which are then
fetched.
"""
