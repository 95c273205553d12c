"""A sum of updates of which the server sees masked vectors only.

Clients agree on masks pair by pair, which cancel in the sum, and each adds a self-mask. Neighbours
of a client hold shares of its secrets. Enough of them give back what the server needs to remove the
masks from the sum, also after clients have dropped out. There are four exchanges, in which
`fedrec.secure_sum.client` and `fedrec.secure_sum.server` answer each other::

    server                     client
    request clients            advertise  ->  PublicKeys
    collect_keys               share      ->  SealedShares
    collect_shares             receive, mask  ->  MaskedSum
    collect_sums               reveal     ->  RevealedShares
    unmasked

Between them travel the values of `fedrec.secure_sum.messages`. What is summed is an `Aggregate`,
packed to a vector by a `fedrec.secure_sum.vector.VectorLayout`.

The server learns the sum over the clients that sent one, which row of a table somebody touched and
with what weight, and who dropped out. It follows the protocol, but may look at all that it
receives, also together with fewer than ``threshold`` neighbours of a client. Against a server that
makes up clients or exchanges their keys, keys must be signed, which they are not here. A client can
send any vector, of which nobody sees whether it is an honest update, and can make the sum fail.

Reference: bonawitz2017practical; bell2020secure.
"""
