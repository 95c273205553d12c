"""Machine code for one user at a time, nothing larger than its rows in the cache.

It covers what the shipped configurations use, see `fedrec.training.task.ClientTask.executor`; the
readable reference is `fedrec.training.local_sgd`. A client's bits depend on its own data alone.
"""
