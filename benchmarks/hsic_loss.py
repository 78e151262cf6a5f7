"""HSIC as a loss: a network of two layers over TREC's questions, by several losses, three seeds.

    ORDTOOL_DATA=... python benchmarks/hsic_loss.py

The questions of the TREC set (5,452 to train on, 500 to test, six classes; `classification/trec-train.txt` and
`trec-test.txt`) are embedded once by `minilm`. A network of 384, 256 and 64 units is trained on them, by
backpropagation, with

- `nhsic`: minus `ordtool.nhsic_loss` of its output and the labels,
- `cka`: minus `ordtool.hsic_loss` of the two over the root of its own with itself, linear kernels,
- `cross-entropy`: a linear head on top, which is then thrown away,
- `random`: nothing at all.

What each has learned is read by the same ridge regression on the classes, which is also put on the vectors as they are.
Accuracy on the test set in percent, one JSON line a row and then a table.
"""

import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import ordtool

DATA = Path(os.environ.get("ORDTOOL_DATA", "data"))
SEEDS, EPOCHS, BATCH = (0, 1, 2), 5, 256
RIDGE = 10.0


def questions(part):
    """Gives the texts and the classes of a part."""
    lines = (DATA / "classification" / f"trec-{part}.txt").read_text(encoding="latin-1").splitlines()
    labels, texts = zip(*(line.split(" ", 1) for line in lines), strict=True)
    return list(texts), torch.tensor([int(label) for label in labels])


def read_out(train, labels, test):
    """Gives the classes that a ridge regression on standardised features names, `(rows,)`."""
    mean, spread = train.mean(dim=0), train.std(dim=0) + 1e-6
    train, test = (
        torch.cat([(rows - mean) / spread, torch.ones(len(rows), 1)], dim=1).double()
        for rows in (train, test)
    )
    matrix = train.T @ train + RIDGE * torch.eye(train.shape[1]).double()
    return (test @ torch.linalg.solve(matrix, train.T @ nn.functional.one_hot(labels).double())).argmax(dim=1)


def cka_loss(output, labels, head):
    """Minus CKA, but for a factor that the labels alone decide."""
    own = ordtool.hsic_loss(output, output, kernel="linear").clamp_min(1e-12)
    return -ordtool.hsic_loss(output, labels, kernel="linear") / own.sqrt()


LOSSES = {
    "nhsic": lambda output, labels, head: -ordtool.nhsic_loss(output, labels, epsilon=1e-3),
    "cka": cka_loss,
    "cross-entropy": lambda output, labels, head: nn.functional.cross_entropy(head(output), labels),
    "random": None,
}


def trained(loss, vectors, labels, seed):
    """Gives a network after five epochs, and the CPU seconds they took."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(vectors.shape[1], 256), nn.ReLU(), nn.Linear(256, 64))
    head = nn.Linear(64, int(labels.max()) + 1)
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=1e-3)
    start = time.process_time()
    for _ in range(EPOCHS if loss else 0):
        for batch in torch.randperm(len(vectors)).split(BATCH)[:-1]:
            optimizer.zero_grad()
            loss(network(vectors[batch]), labels[batch], head).backward()
            optimizer.step()
    return network, time.process_time() - start


def main():
    """Embeds, trains, reads out, prints."""
    parts = {part: questions(part) for part in ("train", "test")}
    train, test = (
        torch.from_numpy(np.asarray(ordtool.embed(texts, model="minilm", dtype="float32")))
        for texts, _ in parts.values()
    )
    labels, gold = parts["train"][1], parts["test"][1]
    mean, spread = train.mean(dim=0), train.std(dim=0) + 1e-6
    train, test = (train - mean) / spread, (test - mean) / spread

    def accuracy(found):
        return 100 * (found == gold).double().mean().item()

    rows = [
        {"layers by": "no layers", "accuracy": [accuracy(read_out(train, labels, test))], "cpu_seconds": 0.0}
    ]
    print(json.dumps(rows[-1]))
    for name, loss in LOSSES.items():
        scores, seconds = [], []
        for seed in SEEDS:
            network, busy = trained(loss, train, labels, seed)
            with torch.no_grad():
                scores.append(accuracy(read_out(network(train), labels, network(test))))
            seconds.append(busy)
        rows.append({"layers by": name, "accuracy": scores, "cpu_seconds": sum(seconds) / len(seconds)})
        print(json.dumps(rows[-1]), flush=True)
    print("\n| layers by | accuracy, % | CPU seconds |\n|---|---|---|")
    for row in rows:
        scores = row["accuracy"]
        spread = f" ({min(scores):.1f} to {max(scores):.1f})" if len(scores) > 1 else ""
        print(f"| {row['layers by']} | {sum(scores) / len(scores):.1f}{spread} | {row['cpu_seconds']:.1f} |")


if __name__ == "__main__":
    main()
