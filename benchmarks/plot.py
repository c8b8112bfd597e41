"""Draw the bars that come as JSON on stdin into the SVG file that is named; runs where matplotlib is."""

import json
import sys

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot


def main() -> None:
    """One bar a case, with its spread, and a line at 1: as fast as the peer."""
    bars = json.load(sys.stdin)
    mpl.rcParams.update({"svg.hashsalt": "isthmus", "font.size": 8})
    machines = sorted({bar["machine"] for bar in bars})
    figure, axis = pyplot.subplots(figsize=(8, 0.8 + 0.28 * len(bars)), layout="constrained")
    for place, bar in enumerate(reversed(bars)):
        colour = f"C{machines.index(bar['machine'])}"
        spread = [[bar["median"] - bar["min"]], [bar["max"] - bar["median"]]]
        axis.barh(place, bar["median"], xerr=spread, color=colour, height=0.7)
    axis.set_yticks(range(len(bars)), [bar["label"] for bar in reversed(bars)])
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_xlabel("times as fast as the peer")
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=f"C{number}") for number in range(len(machines))]
    figure.legend(handles, machines, loc="outside lower center")
    figure.savefig(sys.argv[1], metadata={"Date": None})


if __name__ == "__main__":
    main()
