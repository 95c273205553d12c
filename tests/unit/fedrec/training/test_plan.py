"""What the clients of a computation hold together."""

from hypothesis import given

from fedrec.training.draws import positives_of_clients
from fedrec.types import Shard
from tests.planted import federations


@given(shard=federations(several=True))
def test_the_positives_of_a_client_are_the_union_of_its_users_train_items(shard: Shard) -> None:
    positives = positives_of_clients(shard)
    owner = shard.client_of_user()
    assert len(positives) == shard.n_clients
    for client in range(shard.n_clients):
        users = [user for user in range(shard.n_users) if owner[user] == client]
        expected = sorted({item for user in users for item in shard.train.row(user).tolist()})
        assert positives.row(client).tolist() == expected


@given(shard=federations())
def test_of_one_user_each_they_are_its_train_items(shard: Shard) -> None:
    assert positives_of_clients(shard) is shard.train
