"""Files of spaCy, fastText, transformers, torch, MLflow, Weights & Biases and interpret."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.scoring.files_of_tools.problem import (
    ANIMALS,
    IDS,
    TEST_3,
    TEST_X,
    TRAIN_2,
    TRAIN_X,
    WORDS,
    YES,
    Case,
    dumped,
    forest,
    lines,
    of_logits,
    of_records,
    of_rows,
    of_text,
    tool,
)

TEXTS = {
    "cat": ["purr purr milk", "meow on the sofa", "whiskers and milk"],
    "dog": ["bark at the ball", "fetch the stick", "bark bark walk"],
    "owl": ["hoot at night", "feathers and a hoot", "night flight"],
}


@tool("spacy")
def spacy_textcat(at: Path) -> Case:
    """`doc.cats` of each text beside its annotation."""
    import spacy
    from spacy.training import Example

    nlp = spacy.blank("en")
    cat = nlp.add_pipe("textcat")
    docs = [(text, name) for name, texts in TEXTS.items() for text in texts]
    examples = [Example.from_dict(nlp.make_doc(t), {"cats": {a: float(a == n) for a in ANIMALS}}) for t, n in docs]
    for name in ANIMALS:
        _ = cat.add_label(name)  # pyright: ignore
    spacy.util.fix_random_seed(0)
    optimizer = nlp.initialize(lambda: examples)
    for _ in range(4):
        _ = nlp.update(examples, sgd=optimizer)
    made = [{"text": t, "label": n, "cats": nlp(t).cats} for t, n in docs]
    path = lines(at / "spacy_textcat.jsonl", made)
    loss = of_records([n for _, n in docs], [row["cats"] for row in made])
    return Case(path.name, ("--label", "label"), loss, rows=len(docs), said="spaCy")


@tool("fasttext")
def fasttext_lines(at: Path) -> Case:
    """`fasttext predict-prob model.bin test.txt -1`: all labels of each text, the most probable first, no truth."""
    import fasttext

    data = at / "fasttext-train.txt"
    docs = [(text, name) for name, texts in TEXTS.items() for text in texts]
    data.write_text("".join(f"__label__{name} {text}\n" for text, name in docs))
    model = fasttext.train_supervised(str(data), epoch=60, lr=0.5, dim=4, thread=1, minCount=1, verbose=0)
    data.unlink()
    made = []
    for text, _ in docs:
        found = model.f.predict(text + "\n", -1, 0.0, "strict")
        made.append(" ".join(f"{name} {p:g}" for p, name in found))
    (at / "fasttext.txt").write_text("\n".join(made) + "\n")
    return Case("fasttext.txt", refused="label|--format")


@tool("fasttext")
def fasttext_with_truth(at: Path) -> Case:
    names = [name for name, texts in TEXTS.items() for _ in texts]
    (at / "fasttext_truth.csv").write_text("\n".join(["label", *names]) + "\n")
    found = [line.split() for line in (at / "fasttext.txt").read_text().splitlines()]
    rows = [dict(zip(words[::2], words[1::2], strict=True)) for words in found]
    sums = [sum(float(p) for p in row.values()) for row in rows]
    assert all(abs(s - 1) < 0.01 for s in sums)
    loss = of_records([f"__label__{name}" for name in names], rows)
    return Case("fasttext.txt", ("--truth", "fasttext_truth.csv", "--label", "label"), loss, rows=len(rows))


def _pipeline() -> Any:
    """A text classifier of transformers with random weights and a tiny vocabulary."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, pipeline

    words = sorted({word for texts in TEXTS.values() for text in texts for word in text.split()})
    vocabulary = {word: k for k, word in enumerate(["[PAD]", "[UNK]", *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]")
    _ = torch.manual_seed(3)
    sizes: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(vocabulary), intermediate_size=8, num_labels=3, initializer_range=1.0, **sizes)
    config.id2label = dict(enumerate(ANIMALS))
    config.label2id = {name: k for k, name in enumerate(ANIMALS)}
    model = BertForSequenceClassification(config).eval()
    return pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None, device="cpu")


def _pipeline_rows() -> tuple[list[str], list[str], list[Any]]:
    docs = [(text, name) for name, texts in TEXTS.items() for text in texts]
    texts, names = [text for text, _ in docs], [name for _, name in docs]
    return texts, names, _pipeline()(texts)


def _by_name(found: list[Any]) -> list[dict[str, float]]:
    return [{one["label"]: one["score"] for one in row} for row in found]


@tool("transformers")
def transformers_pipeline(at: Path) -> Case:
    texts, names, found = _pipeline_rows()
    made = [{"text": t, "label": n, "pred": row} for t, n, row in zip(texts, names, found, strict=True)]
    path = lines(at / "transformers_pipeline.jsonl", made)
    options = ("--label", "label", "--probs", "pred")
    return Case(path.name, options, of_records(names, _by_name(found)), rows=len(names))


@tool("transformers")
def transformers_pipeline_unasked(at: Path) -> Case:
    rows = [json.loads(line) for line in (at / "transformers_pipeline.jsonl").read_text().splitlines()]
    loss = of_records([row["label"] for row in rows], _by_name([row["pred"] for row in rows]))
    return Case("transformers_pipeline.jsonl", loss=loss, rows=len(rows), said="pipeline")


@tool("transformers")
def transformers_pipeline_json(at: Path) -> Case:
    texts, names, found = _pipeline_rows()
    made = [{"text": t, "gold": n, "output": row} for t, n, row in zip(texts, names, found, strict=True)]
    path = dumped(at / "transformers_pipeline.json", made)
    options = ("--label", "gold", "--probs", "output")
    return Case(path.name, options, of_records(names, _by_name(found)), rows=len(names))


@tool("transformers")
def transformers_pipeline_parquet(at: Path) -> Case:
    texts, names, found = _pipeline_rows()
    pd.DataFrame({"text": texts, "label": names, "pred": found}).to_parquet(at / "transformers_pipeline.parquet")
    options = ("--label", "label", "--probs", "pred")
    return Case("transformers_pipeline.parquet", options, of_records(names, _by_name(found)), rows=len(names))


@tool("transformers")
def transformers_trainer(at: Path) -> Case:
    """`trainer.predict` gives logits as `predictions` and `label_ids`."""
    from transformers.trainer_utils import PredictionOutput

    z = np.log(forest() + 0.01).astype(np.float32) * 2
    made = PredictionOutput(predictions=z, label_ids=TEST_3, metrics={})
    np.savez(at / "transformers_trainer.npz", predictions=made.predictions, label_ids=made.label_ids)
    options = ("--label", "label_ids", "--logits", "predictions")
    return Case("transformers_trainer.npz", options, of_logits(TEST_3, z))


@tool("transformers")
def transformers_results(at: Path) -> Case:
    """run_glue's predict_results.txt has the class alone."""
    text = "index\tprediction\n" + "".join(f"{k}\t{name}\n" for k, name in enumerate(WORDS))
    (at / "predict_results.tsv").write_text(text)
    return Case("predict_results.tsv", ("--label", "prediction"), refused="prob")


@tool("torch")
def torch_file(at: Path) -> Case:
    import torch

    torch.save({"logits": torch.zeros(2, 3), "y": torch.tensor([0, 1])}, at / "torch.pt")
    return Case("torch.pt", ("--label", "y", "--logits", "logits"), refused="pickle")


@tool("safetensors")
def safetensors_logits(at: Path) -> Case:
    import torch
    from safetensors.torch import save_file

    z = torch.tensor(np.log(forest() + 0.01) * 2, dtype=torch.float32)
    save_file({"logits": z, "labels": torch.tensor(TEST_3)}, at / "logits.safetensors")
    options = ("--label", "labels", "--logits", "logits")
    return Case("logits.safetensors", options, of_logits(TEST_3, z.tolist()))


@tool("safetensors")
def safetensors_bfloat(at: Path) -> Case:
    import torch
    from safetensors.torch import save_file

    z = torch.tensor(np.log(forest() + 0.01) * 2).to(torch.bfloat16)
    save_file({"logits": z, "labels": torch.tensor(TEST_3)}, at / "logits_bf16.safetensors")
    options = ("--label", "labels", "--logits", "logits")
    return Case("logits_bf16.safetensors", options, of_logits(TEST_3, z.double().tolist()))


@tool("mlflow")
def mlflow_table(at: Path) -> Case:
    """`mlflow.log_table` and the tables of `mlflow.evaluate`: columns and data."""
    import mlflow

    frame = pd.DataFrame({"id": IDS, "target": WORDS, **{f"p_{a}": forest()[:, k] for k, a in enumerate(ANIMALS)}})
    store = at / "mlflow-store"
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(store.as_uri())
    with mlflow.start_run() as run:
        mlflow.log_table(frame, "eval_results_table.json")
    found = next(store.rglob("eval_results_table.json"))
    assert run.info.run_id in str(found)
    _ = shutil.copy(found, at / "eval_results_table.json")
    shutil.rmtree(store)
    made = json.loads((at / "eval_results_table.json").read_text())
    rows = [dict(zip(made["columns"], row, strict=True)) for row in made["data"]]
    loss = mean(rows)
    return Case("eval_results_table.json", ("--label", "target", "--probs", "p_*"), loss)


def mean(rows: list[Any]) -> float:
    return of_rows(TEST_3, [[row[f"p_{a}"] for a in ANIMALS] for row in rows])


@tool("wandb")
def wandb_table(at: Path) -> Case:
    import wandb

    data = [[i, w, *p] for i, w, p in zip(IDS, WORDS, forest().tolist(), strict=True)]
    table = wandb.Table(columns=["id", "truth", *(f"score_{a}" for a in ANIMALS)], data=data)
    path = at / "wandb.table.json"
    path.write_text(json.dumps(table._to_table_json()))
    return Case(path.name, ("--label", "truth", "--probs", "score_*"), of_rows(TEST_3, [row[2:] for row in data]))


@tool("interpret")
def interpret_frame(at: Path) -> Case:
    """An explainable boosting machine's probabilities beside the answer."""
    from interpret.glassbox import ExplainableBoostingClassifier

    model = ExplainableBoostingClassifier(interactions=0, max_rounds=20, n_jobs=1, random_state=0)
    p = model.fit(TRAIN_X, TRAIN_2).predict_proba(TEST_X)
    made = pd.DataFrame(p, columns=["proba_no", "proba_yes"]).assign(churn=YES)
    made.to_csv(at / "interpret.csv", index=False)
    loss = of_text((at / "interpret.csv").read_text(), "churn", ["proba_no", "proba_yes"], ["no", "yes"])
    return Case("interpret.csv", ("--label", "churn", "--probs", "proba_*"), loss)
