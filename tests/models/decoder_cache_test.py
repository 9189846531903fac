"""Keys of traced graphs."""

import gc
import weakref

from keras_gpt.models.decoder_cache import SameObjects


class _Thing:
    pass


def test_a_key_is_of_its_objects_and_keeps_them():
    one, other = _Thing(), _Thing()
    key = SameObjects([one, other])
    assert key == SameObjects([one, other]) and hash(key) == hash(key)
    assert {key: 1}[SameObjects(iter([one, other]))] == 1
    assert key != SameObjects([other, one]) and key != SameObjects([one])
    # Else a new object could take the id of one that is gone, and its graph.
    alive = weakref.ref(one)
    del one
    gc.collect()
    assert alive() is not None
