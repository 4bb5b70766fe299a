"""Encryption of what leaves for a store."""

import pytest

from proxy.replicas.store.sealing import Sealing, Unsealable

SECRET = "a secret of at least thirty-two characters"


def test_what_was_sealed_can_be_opened_with_the_same_secret() -> None:
    """Another process with the same setting reads it."""
    sealed = Sealing(SECRET).box("run 1").seal("entry", 1, b"text")

    assert Sealing(SECRET).box("run 1").open("entry", 1, sealed) == b"text"


@pytest.mark.parametrize(
    ("secret", "scope", "kind", "number"),
    [
        (SECRET + ".", "run 1", "entry", 1),
        (SECRET, "run 2", "entry", 1),
        (SECRET, "run 1", "part", 1),
        (SECRET, "run 1", "entry", 2),
        (SECRET, "run 1", "entry 1", 1),
    ],
)
def test_a_value_can_be_opened_only_as_what_it_is(secret: str, scope: str, kind: str, number: int) -> None:
    """Neither with another secret, nor as another run's, nor as another kind, nor in another place."""
    sealed = Sealing(SECRET).box("run 1").seal("entry", 1, b"text")

    with pytest.raises(Unsealable) as caught:
        Sealing(secret).box(scope).open(kind, number, sealed)
    assert "text" not in str(caught.value)


def test_a_value_that_was_changed_anywhere_cannot_be_opened() -> None:
    """Every bit of it counts, and all of it."""
    box = Sealing(SECRET).box("run 1")
    sealed = box.seal("entry", 1, b"text")

    changed = [bytes((*sealed[:i], sealed[i] ^ 1, *sealed[i + 1 :])) for i in range(len(sealed))]
    for value in [*changed, *(sealed[:i] for i in range(len(sealed))), sealed + b"\0"]:
        with pytest.raises(Unsealable):
            box.open("entry", 1, value)


NEXT = "another secret of at least thirty-two characters"


def test_a_secret_is_changed_in_three_steps_in_which_everybody_reads_everybody() -> None:
    """First the new one opens, then it seals, then the old one goes; names stay throughout."""
    before, after = Sealing(SECRET), Sealing(NEXT, names=SECRET)
    both = (Sealing(SECRET, [NEXT], SECRET), Sealing(NEXT, [SECRET], SECRET))
    sealings = [before, *both, after]
    values = [each.box("run 1").seal("entry", 1, b"text") for each in sealings]

    def opens(sealing: Sealing, value: bytes) -> bool:
        try:
            return sealing.box("run 1").open("entry", 1, value) == b"text"
        except Unsealable:
            return False

    assert [[opens(each, value) for value in values] for each in sealings] == [
        [True, True, False, False],
        [True] * 4,
        [True] * 4,
        [False, False, True, True],
    ]
    assert len({each.name("ann") for each in sealings}) == len({each.secret("a") for each in sealings}) == 1


def test_equal_texts_look_different() -> None:
    """A reader of the store cannot see that two entries are equal, nor find words in them."""
    box = Sealing(SECRET).box("run 1")
    values = {box.seal("entry", 1, b"the same text") for _ in range(100)}

    assert len(values) == 100
    assert not any(b"text" in value for value in values)


def test_a_name_says_nothing_about_what_it_names() -> None:
    """Equal for equal values under one secret; without the secret, guesses cannot be checked."""
    assert Sealing(SECRET).name("ann") == Sealing(SECRET).name("ann")
    assert (
        len({Sealing(SECRET).name("ann"), Sealing(SECRET).name("bob"), Sealing(SECRET + ".").name("ann")})
        == 3
    )
    assert "ann" not in Sealing(SECRET).name("ann")
