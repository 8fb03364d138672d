"""DVC stage: train the localizer, once per seed, and the two one-modality baselines."""

from cace import paths
from cace.settings import load_params
from cace.system.errors import run
from cace.system.files import expect_file, publish, sha256, write_json
from cace.system.scratch import scratch
from cace.training.curves import write_curves
from cace.training.runs import jobs_of, train_all, val_summary


def main() -> None:
    """Trains all, writes the models, their curves, and the scores on val."""
    params = load_params()
    features = sha256(expect_file(paths.FEATURES, made_by="extract"))
    with scratch("train", features, params.of_training()) as work:
        jobs = jobs_of(params, unimodal=True)
        curves = train_all(jobs, paths.FEATURES, work, params)
        write_curves(work, curves, params.train.seeds)
        write_json(paths.METRICS / "train.json", val_summary(curves, params.train.seeds))
        publish(work / "curves", paths.CURVES)
        publish(work / "test_curves", paths.TEST_CURVES)
        publish(work / "localizer", paths.LOCALIZERS)


if __name__ == "__main__":
    run(main)
