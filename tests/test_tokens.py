"""In a whole training each text is tokenised once, whichever of its passes reads it."""

import unfreeze

SETTINGS = {"max_length": 16, "store": "off", "seed": 1, "precision": "fp32", "strategy": "full", "epochs": 1}


def test_a_training_tokenises_each_text_once(make_mails, tmp_path, plain_torch, tokenised):
    make_mails(tmp_path / "mails.csv", per_class=15, seed=2)
    run = unfreeze.train(str(tmp_path / "mails.csv"), output_dir=tmp_path / "run", **SETTINGS)
    texts = [line.rpartition(",")[0] for line in (tmp_path / "mails.csv").read_text().splitlines()[1:]]
    assert sorted(tokenised) == sorted(set(texts))
    # What reads the run back and answers has no memory of them.
    run.model().predict([texts[0], texts[0]])
    assert tokenised[len(texts) :] == [texts[0], texts[0]]
