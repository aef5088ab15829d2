"""The checkpoint reader: the tensors that torch wrote, and nothing executed."""

import time
import zipfile

import pytest
import torch
from checkpoints import GET, OPEN_MODULE, SECONDS, UPSTREAM, Holder, Small, archive, save, stream
from torch import nn

from lesff.convert.reader import Record, read_checkpoint
from lesff.errors import IntegrityError


@pytest.fixture
def small(tmp_path) -> tuple[Small, Record]:
    module = Small()
    return module, read_checkpoint(save(module, tmp_path / "small.model"))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_agree_bit_for_bit(tmp_path, protocol):
    module = Small()
    read = read_checkpoint(save(module, tmp_path / "m.pt", pickle_protocol=protocol))
    found = read.parameters_and_buffers()
    expected = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers())
    assert set(found) == set(expected)
    assert set(module.state_dict()) | {"hidden"} == set(found)
    for name, value in expected.items():
        got = found[name]
        assert (got.dtype, got.shape, got.stride()) == (value.dtype, value.shape, value.stride())
        assert got.storage_offset() == value.storage_offset()
        assert not got.requires_grad
        same = got.contiguous().view(-1).view(torch.uint8)
        assert torch.equal(same, value.detach().contiguous().view(-1).view(torch.uint8))


def test_views_and_tied_parameters_share_memory(small):
    found = small[1].parameters_and_buffers()
    assert found["tied"] is found["linear.weight"]
    storage = found["base"].untyped_storage().data_ptr()
    assert found["view"].untyped_storage().data_ptr() == storage


def test_plain_attributes_are_preserved(small):
    module, read = small
    for name in ("names", "constants", "large", "members", "raw", "empty", "kind", "shape"):
        value = read.attribute(name)
        assert value == getattr(module, name)
        assert type(value) is type(getattr(module, name))
    assert (read.attribute("window").path, read.attribute("window").args) == (
        "builtins.slice",
        (1, None, 2),
    )
    assert read.attribute("activation").path == "torch.nn.functional.silu"
    assert read.attribute("activation").args is None


def test_modules_are_found_by_name(small):
    module, read = small
    assert read.path.endswith("checkpoints.Small")
    assert read.submodule("") is read
    assert read.submodule("layers.1.0").path == "torch.nn.modules.linear.Linear"
    assert read.submodule("layers.1.0").attribute("out_features") == 2
    assert torch.equal(read.module("linear").attribute("weight"), module.linear.weight)
    assert read.attribute("training") is True
    assert read.attribute("absent", default=1) is None
    assert read.attribute("heads", default=None) is None
    names = [name for name, _ in read.named_modules()]
    assert names == [name for name, _ in module.named_modules()]
    with pytest.raises(IntegrityError, match="no attribute 'heads'"):
        read.attribute("heads")
    with pytest.raises(IntegrityError, match="no module '2'"):
        read.submodule("layers.2")


def test_numpy_values_stay_records(tmp_path):
    value = {"array": torch.arange(3).numpy(), "scalar": torch.ones(1).numpy()[0]}
    read = read_checkpoint(save(Holder(value), tmp_path / "m.pt")).attribute("value")
    assert read["array"].path.endswith("multiarray._reconstruct")
    assert isinstance(read["array"].state, tuple)
    assert read["scalar"].path.endswith("multiarray.scalar")


def test_dict_and_list_subclasses_keep_their_entries(tmp_path):
    import collections

    counter = collections.defaultdict(list, {"a": 1, (1, 2): 2})
    read = read_checkpoint(save(Holder(counter), tmp_path / "m.pt")).attribute("value")
    assert read.path == "collections.defaultdict"
    assert read.entries == [("a", 1), ((1, 2), 2)]


def test_stored_state_dict_keeps_its_order(tmp_path):
    state = nn.Linear(2, 1).state_dict()
    read = read_checkpoint(save(Holder(state), tmp_path / "m.pt")).attribute("value")
    assert list(read) == ["weight", "bias"]
    assert torch.equal(read["weight"], state["weight"])


def test_missing_byte_order_means_little(tmp_path):
    path = tmp_path / "m.model"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/data.pkl", stream(b"}"))
    assert read_checkpoint(path).state == {}


def test_self_reference_is_data(tmp_path):
    read = read_checkpoint(archive(tmp_path / "m.model", stream(b"q\0}X\x01\0\0\0xh\0s")))
    assert read.attribute("x") is read
    assert repr(read) == "<record of box.Module>"


def test_walk_ends_where_a_module_holds_itself(tmp_path):
    loop = read_checkpoint(
        archive(tmp_path / "m.model", stream(b"q\0}X\x08\0\0\0_modules}X\x01\0\0\0xh\0ss"))
    )
    with pytest.raises(IntegrityError, match="nested too deeply"):
        loop.parameters_and_buffers()


def test_walk_of_modules_shared_many_times_ends(tmp_path):
    def module(inside: bytes) -> bytes:
        return OPEN_MODULE + b"}X\x08\0\0\0_modules}" + inside + b"sb"

    body = module(b"")
    for _ in range(20):
        body += b"q\x000" + module(b"(X\1\0\0\0a" + GET + b"X\1\0\0\0b" + GET + b"u")
    path = archive(tmp_path / "m.model", b"\x80\x02" + body + b".")
    begin = time.monotonic()
    with pytest.raises(IntegrityError, match="more than 100000 modules"):
        read_checkpoint(path).parameters_and_buffers()
    assert time.monotonic() - begin < SECONDS


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (b"}X\x08\0\0\0_buffersK\1s", "_buffers of box.Module .* must be a dict"),
        (b"}X\x08\0\0\0_buffers}K\1K\1ss", "no plain name"),
        (b"}X\x08\0\0\0_buffers}X\3\0\0\0a.bK\1ss", "no plain name"),
        (b"}X\x08\0\0\0_buffers}X\1\0\0\0aK\1ss", "'a' .* is a int"),
        (b"}X\x08\0\0\0_modules}X\1\0\0\0aK\1ss", "'a' among the modules"),
        (b"}X\x08\0\0\0_buffers}X\1\0\0\0act\nf\n)Rss", "'a' .* an object of t.f"),
    ],
)
def test_walk_refuses_odd_members(tmp_path, body, match):
    read = read_checkpoint(archive(tmp_path / "m.model", stream(body)))
    with pytest.raises(IntegrityError, match=match):
        read.parameters_and_buffers()


# --- Published models -------------------------------------------------------------------------

PUBLISHED = {
    "dipep_mace-r-4-l-0_dipep_train_stagetwo": ("ScaleShiftMACE", 69, 4.0, (1, 6, 7, 8), 64, 2),
    "dipep_maceles-r-4-l-0_dipep_train_stagetwo": ("MACELES", 78, 4.0, (1, 6, 7, 8), 64, 2),
    "dipep_maceles-r-4.5-l-0_dipep_train_stagetwo": ("MACELES", 78, 4.5, (1, 6, 7, 8), 64, 2),
    "water_mace-r-4.5-nl-1-l-0_H20_stagetwo": ("ScaleShiftMACE", 69, 4.5, (1, 8), 128, 2),
    "water_maceles-r-4.5-nl-0_H20_stagetwo": ("MACELES", 49, 4.5, (1, 8), 128, 1),
    "water_maceles-r-4.5-nl-1-l-0_H20_stagetwo": ("MACELES", 78, 4.5, (1, 8), 128, 2),
}
"""Class, number of tensors, cutoff, elements, channels and layers."""


@pytest.mark.skipif(not UPSTREAM.is_dir(), reason="the published models are not on this machine")
@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_models_are_read(name):
    kind, count, cutoff, elements, channels, layers = PUBLISHED[name]
    root = read_checkpoint(UPSTREAM / f"{name}.model")
    tensors = root.parameters_and_buffers()
    assert root.path == f"mace.modules.models.{kind}"
    assert len(tensors) == count
    assert root.attribute("r_max").item() == cutoff
    assert tuple(root.attribute("atomic_numbers").tolist()) == elements
    assert tensors["node_embedding.linear.weight"].shape == (len(elements) * channels,)
    assert tensors["atomic_energies_fn.atomic_energies"].shape == (1, len(elements))
    assert root.attribute("num_interactions").item() == layers
    for layer in range(layers):
        block = root.submodule(f"interactions.{layer}")
        assert block.attribute("avg_num_neighbors") > 0
        widths = block.module("conv_tp_weights").attribute("hs")
        assert widths == [8, 64, 64, 64, 4 * channels]
        for i in range(4):
            weight = tensors[f"interactions.{layer}.conv_tp_weights.layer{i}.weight"]
            assert weight.shape == (widths[i], widths[i + 1])
    assert all(torch.isfinite(value).all() for value in tensors.values())
    if kind == "MACELES":
        ewald = root.submodule("les.ewald")
        assert ewald.attribute("sigma") == 1.0
        assert ewald.attribute("remove_self_interaction") is False
        assert ewald.attribute("norm_factor") == 90.0474
