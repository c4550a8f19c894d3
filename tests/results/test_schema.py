"""The declared tables: what others rely on is there, described, and versioned."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lop_ray.results import Store, read_table
from lop_ray.results.schema import (
    SCHEMA_VERSION,
    SCHEMAS,
    VERSION_KEY,
    SchemaVersionError,
    check_version,
    describe,
    schema_of,
)

PROMISED = {
    "trials": "trial_id grid problem algorithm variant seed status reason env_steps updates config git_commit "
    "git_dirty versions hardware started_at finished_at",
    "updates": "trial_id update env_steps task wall_s policy_loss value_loss entropy approx_kl clip_fraction grad_norm "
    "explained_variance weight_change loss accuracy test_accuracy episodes episode_return_mean sample_s learn_s "
    "diagnose_s",
    "episodes": "trial_id update env_steps task episode_return length terminated",
    "layers": "trial_id update env_steps task network layer units dead at_risk always_on selective mean_margin dormant "
    "activity stable_rank effective_rank feature_rank weight_magnitude weight_change activation_rate",
    "neurons": "trial_id update network layer margin",
    "probes": "trial_id update env_steps task probe metric value network layer",
    "boundaries": "trial_id update env_steps task network layer units samples old_dead old_at_risk old_mean_margin "
    "predictive_dead predictive_at_risk predictive_mean_margin actual_dead actual_at_risk actual_mean_margin "
    "killed_by_shift killed_by_adaptation revived_by_shift revived_by_adaptation",
    "spectra": "trial_id update env_steps task network layer spectrum x y",
    "tasks": "trial_id task update env_steps examples first_loss min_loss last_loss final_loss final_accuracy "
    "online_accuracy test_accuracy fresh_min_loss fresh_final_loss fresh_final_accuracy distance",
    "evaluations": "trial_id update env_steps task split episodes episode_return_mean returns",
}


@pytest.mark.parametrize("table", PROMISED)
def test_promised_columns_are_there(table):
    assert set(PROMISED[table].split()) <= set(SCHEMAS[table].names)
    assert set(PROMISED) == set(SCHEMAS)


@pytest.mark.parametrize("table", SCHEMAS)
def test_every_column_is_described_and_the_version_stands_in_the_schema(table):
    assert all(text.endswith(".") for text in describe(table).values())
    assert list(describe(table)) == SCHEMAS[table].names
    assert SCHEMAS[table].metadata[VERSION_KEY] == str(SCHEMA_VERSION).encode()
    assert SCHEMAS[table].names[0] == "trial_id"


def test_counts_are_int32_and_margins_are_lists_of_float32():
    layers = schema_of("layers")
    assert {layers.field(name).type for name in ("dead", "at_risk", "always_on", "selective", "dormant")} == {
        pa.int32()
    }
    assert schema_of("neurons").field("margin").type == pa.list_(pa.float32())


def test_an_unknown_table_is_named_with_those_that_exist():
    with pytest.raises(KeyError, match=r"no table 'layer' in the store; there are trials, updates, .*layers"):
        schema_of("layer")


def test_a_newer_schema_is_refused():
    check_version({VERSION_KEY: str(SCHEMA_VERSION).encode()}, "part")
    with pytest.raises(SchemaVersionError, match="part has schema version 99, this lop_ray knows up to"):
        check_version({VERSION_KEY: b"99"}, "part")


def test_parts_of_an_older_schema_read_as_null_in_columns_that_came_later(place):
    table = schema_of("layers")
    later = ["gradient_norm", "gradient_snr", "kfac_input_rank", "kfac_gradient_effective_rank"]
    older = pa.schema([field for field in table if field.name not in later], metadata={VERSION_KEY: b"1"})
    rows = pa.Table.from_pylist([{"trial_id": "t1", "update": 1, "network": "policy", "layer": 0, "dead": 3}], older)
    store = Store(place, "grid")
    with store.location.atomic_file("data/layers/trial_id=t1/part-00000000-00000000.parquet") as file:
        pq.write_table(rows, file)
    trial = store.trial_writer("t1")
    trial.rewind(1)
    trial.append("layers", {"update": 2, "network": "policy", "layer": 0, "dead": 4, "gradient_norm": 0.5})
    for finish in (trial.commit, trial.join):
        finish()
        back = read_table(place, "grid", "layers", columns=["update", "dead", *later[:2]]).to_pylist()
        assert back == [
            {"update": 1, "dead": 3, "gradient_norm": None, "gradient_snr": None},
            {"update": 2, "dead": 4, "gradient_norm": 0.5, "gradient_snr": None},
        ]
