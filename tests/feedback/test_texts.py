"""Critics of texts: the continuation alone, empty texts abstain, an optional package that is missing is named."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json

import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from trueline.errors import UserError
from trueline.feedback import profanity
from trueline.feedback.judge import judge
from trueline.feedback.profanity import Profanity
from trueline.feedback.protocol import Critic, metering
from trueline.feedback.sentiment import Sentiment
from trueline.feedback.texts import EMPTY, TextCritic
from trueline.fingerprint import fingerprint
from trueline.pipeline import Work, make, stage
from trueline.records import Completion, Group, Prompt, write_jsonl
from trueline.store import Groups, using

TEXTS = ("What a lovely, kind idea!", " ", "Shut up, you stupid idiot.", "The train leaves at nine.")


@dataclasses.dataclass(frozen=True)
class Sized(TextCritic):
    """Scores by length, not at all what has a digit."""

    name = "sized"

    def scores(self, texts):
        return ["a digit" if any(c.isdigit() for c in text) else len(text) for text in texts]


@stage(Groups, name="text_answers")
def answers(work: Work) -> None:
    write_jsonl(work.dir / "groups.jsonl", groups())


def groups(*texts):
    return [Group(Prompt.of("You stupid idiot!"), tuple(Completion(t) for t in texts or TEXTS))]


def test_a_score_per_text_an_abstention_with_its_reason():
    with metering() as counted:
        (group,) = Sized()(groups("ab", "", "a1", "abc"))
    assert group.scores() == [2.0, None, None, 3.0]
    assert [said[0].raw for said in group.feedback] == [None, EMPTY, "a digit", None]
    assert counted == {"critic_calls": 3}
    assert Sized()(groups("", " "))[0].scores() == [None, None]


@pytest.mark.parametrize("critic", [Profanity(), Sentiment()], ids=lambda c: c.name)
def test_only_the_continuation_is_scored(critic, tmp_path):
    """The prompt is foul, and no answer pays for it; the foul answer scores lowest, the blank one not at all."""
    assert isinstance(critic, Critic) and critic.calls(1, 4) == 4
    made = make(judge(answers(), critic), store=tmp_path)
    with using(tmp_path):
        (group,) = made.read()
    kind, blank, foul, plain = group.scores(critic.name)
    assert blank is None and foul < plain <= kind
    assert {said[-1].by for said in group.feedback} == {critic.name}
    assert critic.scores(["The train leaves at nine."]) == [plain]


def test_ranges():
    """Profanity is a probability of being clean; VADER's compound goes from -1 to 1, and 0 is neutral."""
    kind, foul, plain = Profanity().scores([TEXTS[0], TEXTS[2], TEXTS[3]])
    assert foul < 0.1 and 0.9 < plain <= 1 and 0.9 < kind <= 1
    kind, foul, plain = Sentiment().scores([TEXTS[0], TEXTS[2], TEXTS[3]])
    assert kind > 0.5 and -1 <= foul < -0.5 and plain == 0


def test_the_installed_version_is_part_of_the_identity(monkeypatch):
    """What another version scores may differ: its scores are another artefact."""
    for critic in (Profanity(), Sentiment()):
        before = fingerprint(critic)
        with monkeypatch.context() as changed:
            changed.setattr(importlib.metadata, "version", lambda package: "0.0.1")
            assert fingerprint(critic) != before


def test_a_missing_package_is_an_error_that_names_the_extra(monkeypatch):
    def missing(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    for critic in (Profanity(), Sentiment()):
        with pytest.raises(UserError, match=r"is not installed.*pip install 'trueline\[critics\]'"):
            fingerprint(critic)


def test_a_model_written_by_another_scikit_learn_is_not_unpickled():
    profanity.check_version(["scikit-learn==1.9.1", "joblib==1.6.0"], "1.9.1")
    profanity.check_version([], "1.9.1")
    with pytest.raises(UserError, match=r"scikit-learn is 1\.8\.0; scikit-learn==1\.9\.1, which wrote the model"):
        profanity.check_version(["scikit-learn==1.9.1", "joblib==1.6.0"], "1.8.0")


def test_agreement_with_perspective_on_real_texts(shared_data):
    """996 real prompts and continuations with their Perspective scores: rank correlation and AUC at toxicity 0.5.

    Measured: profanity 0.680 and 0.893, VADER 0.338 and 0.662 (docs/critics.md).
    """
    path = shared_data / "toxicity" / "texts_with_perspective_scores_part.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [row for row in rows if row["toxicity"] is not None]
    texts, toxicity = [row["text"] for row in rows], [row["toxicity"] for row in rows]
    assert len(rows) == 996
    for critic, rank, auc in ((Profanity(), 0.680, 0.893), (Sentiment(), 0.338, 0.662)):
        scores = critic.scores(texts)
        assert -spearmanr(scores, toxicity).statistic == pytest.approx(rank, abs=0.02)
        assert roc_auc_score([t > 0.5 for t in toxicity], [-s for s in scores]) == pytest.approx(auc, abs=0.02)
