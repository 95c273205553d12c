"""FedJAX's part of compare.py; in an environment of its own: run_fedjax.py WORK.npz RESULT.npz

`fedjax.for_each_client` with its compiling backend; the last batch of a client is padded to one of
a few sizes, so that few shapes are compiled. Each user's head goes in and out as client input.
"""

from __future__ import annotations

import sys
import time

import fedjax
import jax
import jax.numpy as jnp
import numpy as np

BUCKETS = 8


def loss(params, batch):
    logits = params["item"][batch["rows"]] @ params["head"] + params["bias"]
    labels = jnp.zeros_like(logits).at[:, 0].set(1.0)
    each = jnp.maximum(logits, 0) - logits * labels + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    return (each.sum(axis=1) * batch[fedjax.EXAMPLE_MASK_KEY]).sum()


def main(source, target):
    jax.config.update("jax_platforms", "cpu")
    work = np.load(source)
    offsets, examples = work["offsets"], work["examples"]
    clients = len(offsets) - 1
    rounds, batch, rate = int(work["rounds"]), int(work["batch"]), float(work["lr"])
    optimizer = fedjax.optimizers.sgd(learning_rate=rate)
    gradient = jax.grad(loss)

    def client_init(shared, own):
        params = {"item": shared["item"], **own}
        return {"params": params, "state": optimizer.init(params)}

    def client_step(state, batch):
        grads = gradient(state["params"], batch)
        opt_state, params = optimizer.apply(grads, state["state"], state["params"])
        return {"params": params, "state": opt_state}

    def client_final(shared, state):
        params = state["params"]
        return {
            "change": params["item"] - shared["item"],
            "own": {"head": params["head"], "bias": params["bias"]},
        }

    train = fedjax.for_each_client(client_init, client_step, client_final)
    add = jax.jit(lambda total, change: total + change, donate_argnums=0)
    shared = {"item": jnp.asarray(work["item"])}
    own = [
        {"head": jnp.asarray(work["head"][user]), "bias": jnp.asarray(work["bias"][user])}
        for user in range(clients)
    ]
    hparams = fedjax.PaddedBatchHParams(batch_size=batch, num_batch_size_buckets=BUCKETS)
    laps = []
    for number in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        batches = [
            fedjax.ClientDataset(
                {"rows": examples[number, offsets[user] : offsets[user + 1]]}
            ).padded_batch(hparams)
            for user in range(clients)
        ]
        total = jnp.zeros_like(shared["item"])
        for user, output in train(
            shared, [(user, batches[user], own[user]) for user in range(clients)]
        ):
            total = add(total, output["change"])
            own[user] = output["own"]
        shared = {"item": jax.block_until_ready(shared["item"] + total / clients)}
        laps.append((time.perf_counter() - wall, time.process_time() - cpu))
    heads = np.stack([np.asarray(each["head"]) for each in own])
    np.savez(target, laps=np.array(laps), item=np.asarray(shared["item"]), head=heads)


if __name__ == "__main__":
    main(*sys.argv[1:])
