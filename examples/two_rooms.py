"""Can a tiny world model plan a way through a door that it has only seen others pass? EB-JEPA in two rooms.

    python examples/two_rooms.py --output-dir runs/two_rooms

Needs no download. An EB-JEPA learns from videos of a dot that wanders about two rooms, and from its actions; nobody
shows it a plan. Then
  1. probes ask where it thinks that the dot is, now and after many steps, and whether it lets dots through walls,
  2. a second level is trained above it, which predicts eight steps at once (H-JEPA),
  3. agents look for a way to a target in the other room with it: by the cross-entropy method, by MPPI, and in two
     levels, beside one that looks only a few steps ahead, and one that does anything.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from room_agents import Episodes, act, agents, new_rooms, prepare
from room_model import (
    ANY,
    Knowledge,
    encode,
    fit_macro_actions,
    new_hierarchy,
    new_model,
    refine,
    train,
    trained_values,
)
from scipy.stats import spearmanr

from hf_jepa import EbJepaForPreTraining, EbJepaModel
from hf_jepa.cli.quickstart_recipe import one_thread
from hf_jepa.cli.tables import table
from hf_jepa.data.two_rooms_dynamics import BORDER, Layouts
from hf_jepa.data.two_rooms_env import TwoRoomsVectorEnv
from hf_jepa.planning import encode_goal
from hf_jepa.training.comparison import markdown_table
from hf_jepa.training.kept import write_text
from hf_jepa.visualization.curves import draw_training_curves
from hf_jepa.visualization.two_rooms import draw_room_energy, draw_room_paths, save_episodes


FIXED = (32, 18)  # where the wall and the door are in the variant of the paper that fixes them
SHOWN = 8  # rooms in the pictures of paths and in the animations
PICTURED = ("greedy", "CEM", "hierarchical")
CURVES = {"loss": ["loss"], "prediction": ["prediction_loss"], "variance": ["variance_loss"]}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/two_rooms"), help="where all is written")
    parser.add_argument("--steps", type=int, default=2500, help="of encoder and predictor together")
    parser.add_argument("--predictor-steps", type=int, default=3000, help="then of the predictor alone; 0 for none")
    parser.add_argument("--upper-steps", type=int, default=200, help="of the level above it")
    parser.add_argument("--width", type=int, default=128, help="of its latents")
    parser.add_argument("--world-model", help="folder of a trained one, instead of training one")
    parser.add_argument(
        "--layout", type=int, nargs=2, default=FIXED, metavar=("WALL_X", "DOOR_Y"), help="of all rooms"
    )
    parser.add_argument("--any-layout", action="store_const", const=ANY, dest="layout", help="another in every clip")
    parser.add_argument("--episodes", type=int, default=40, help="rooms in which each agent acts")
    parser.add_argument("--episode-steps", type=int, default=120, help="after which an episode ends")
    parser.add_argument("--clips", type=int, default=2000, help="to fit the probes on")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data")
    return parser.parse_args(argv)


def walking_distance(points: np.ndarray, target: np.ndarray, layouts: Layouts) -> np.ndarray:
    """How far it is from points (N, P, 2) to targets (N, 2), through the door where they are in the other room."""
    door = np.stack([layouts.wall_x, layouts.door_y], axis=1)[:, None]  # (N, 1, 2)
    goal = target[:, None]
    through = np.linalg.norm(points - door, axis=-1) + np.linalg.norm(door - goal, axis=-1)
    other = (points[..., 0] < door[..., 0]) != (goal[..., 0] < door[..., 0])
    return np.where(other, through, np.linalg.norm(points - goal, axis=-1))


def measure_energy(model: EbJepaModel, rooms: TwoRoomsVectorEnv, folder: Path, points: int = 29) -> dict[str, float]:
    """How far the targets seem to be from everywhere: the picture of some rooms, and rank correlations over all."""
    line = torch.linspace(*BORDER, points)[1:-1]  # not in the outer walls
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).flatten(0, 1)  # rows from the top
    count, targets = rooms.num_envs, rooms.target
    with torch.inference_mode():
        goal = encode_goal(model, prepare(rooms.target_observation())["pixel_values"][:, None])
        latents = encode(model, grid.expand(count, -1, -1), rooms.layouts)
        seems = (latents - goal[:, None]).square().mean(dim=-1).numpy()  # (N, P)
    places = np.broadcast_to(grid.numpy(), (count, len(grid), 2))
    straight = np.linalg.norm(places - targets[:, None], axis=-1)
    walked = walking_distance(places, targets, rooms.layouts)
    shape, few = (-1, len(line), len(line)), slice(4)
    measures = {"straight distance": straight, "walking distance": walked, "latents": seems}
    draw_room_energy(
        {name: each[few].reshape(shape) for name, each in measures.items()},
        rooms.target_observation()[few, 1],
        folder / "energy.png",
        targets=targets[few],
        extent=(float(line[0]), float(line[-1])),
    )
    kinds = {"straight": straight, "walking": walked}
    return {
        name: float(np.mean([spearmanr(*pair).statistic for pair in zip(seems, each, strict=True)]))
        for name, each in kinds.items()
    }


def draw_episodes(found: dict[str, Episodes], rooms: TwoRoomsVectorEnv, folder: Path) -> None:
    """Paths of several agents in the first rooms, and an animation of each."""
    shown, walls = slice(SHOWN), rooms.target_observation()[:, 1]
    paths = {name: found[name].positions[shown] for name in PICTURED}
    draw_room_paths(walls[shown], paths, folder / "paths.png", targets=rooms.target[shown])
    for name in PICTURED:
        frames = []
        for position in found[name].positions.swapaxes(0, 1)[::2]:
            rooms.position = position
            frames.append(np.stack(rooms.render()[shown]))
        save_episodes(frames, folder / f"{name}.gif")


def learn(args: argparse.Namespace) -> tuple[EbJepaForPreTraining, dict[str, float]]:
    """The world model, trained here or before, and CPU seconds."""
    if args.world_model:
        return EbJepaForPreTraining.from_pretrained(args.world_model).eval(), {}
    model, start = new_model(args.width, args.seed), time.process_time()
    log = train(model, args.steps, args.seed, args.output_dir / "world_model", args.layout)
    seconds = {"encoder and predictor": round(time.process_time() - start, 1)}
    if args.predictor_steps:
        refine(model, args.predictor_steps, args.seed, args.layout)
    seconds["predictor alone"] = round(time.process_time() - start - sum(seconds.values()), 1)
    model.save_pretrained(args.output_dir / "world_model")
    draw_training_curves(log, CURVES, args.output_dir / "training.png")
    return model, seconds


def run(args: argparse.Namespace) -> dict:
    """The experiment; writes models, pictures, table.md and results.json, and returns the results."""
    folder = args.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    model, seconds = learn(args)
    world = model.eb_jepa
    layout = args.layout
    knows = Knowledge(world, args.clips, layout)
    known = {"r2": knows.r2, "error": knows.error, "layout": knows.layout()}
    known |= {"ahead": knows.ahead(), "walls": knows.walls()}
    start = time.process_time()
    upper = new_hierarchy(model, args.seed)
    train(upper, args.upper_steps, args.seed, folder / "hierarchy", layout)
    fit_macro_actions(upper, args.seed)
    upper.save_pretrained(folder / "hierarchy")
    seconds["level above"] = round(time.process_time() - start, 1)

    rooms = TwoRoomsVectorEnv(args.episodes, args.episode_steps, *layout, render_mode="rgb_array")
    small = new_rooms(world, args.episodes, args.episode_steps, layout)
    for each in (rooms, small):
        each.reset(seed=args.seed)  # those in which the agents act
    known["distance"] = measure_energy(world, small, folder)
    start, found = time.process_time(), {}
    for name, make in agents(world, upper.h_jepa).items():
        found[name] = act(world, make, args.episodes, args.episode_steps, args.seed, layout)
        print(f"{name}: {found[name].summary()}", flush=True)
    seconds["episodes"] = round(time.process_time() - start, 1)
    draw_episodes(found, rooms, folder)
    results = {"settings": {name: str(value) for name, value in vars(args).items() if name != "output_dir"}}
    results |= {"agents": {name: each.summary() for name, each in found.items()}, "knowledge": known}
    results |= {"parameters": trained_values(world), "cpu_seconds": seconds}
    write_text(folder / "results.json", json.dumps(results, indent=2, default=float) + "\n")
    write_text(folder / "table.md", markdown_table(*rows_of(results["agents"])))
    return results


def rows_of(found: dict[str, dict[str, float]]) -> tuple[list[str], list[list[str]]]:
    head = [
        "agent",
        "arrived, %",
        "95 % interval",
        "at any time, %",
        "distance at the end",
        "CPU seconds per decision",
    ]
    rows = [
        [
            name,
            f"{100 * each['success']:.0f}",
            f"{100 * each['low']:.0f} to {100 * each['high']:.0f}",
            f"{100 * each['passed']:.0f}",
            f"{each['distance']:.1f}",
            f"{each['cpu_seconds_per_decision']:.3f}",
        ]
        for name, each in found.items()
    ]
    return head, rows


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    with one_thread():
        results = run(args)
    known = results["knowledge"]
    print("\n" + table(*rows_of(results["agents"])))
    print(f"\nposition of the dot: R2 {known['r2']:.3f}, {known['error']:.2f} pixels off")
    print("wall and door: R2 {r2:.2f}, {wall:.1f} and {door:.1f} pixels off".format(**known["layout"]))
    for name, errors in known["ahead"].items():
        print(f"pixels off after steps, {name}: " + ", ".join(f"{n}: {error:.1f}" for n, error in errors.items()))
    print("passed, %: " + ", ".join(f"{name} {100 * share:.0f}" for name, share in known["walls"].items()))
    ranks = known["distance"]
    print(f"rank correlation of latent and straight distance {ranks['straight']:.2f}, walking {ranks['walking']:.2f}")
    print("CPU seconds: " + ", ".join(f"{name} {each:.0f}" for name, each in results["cpu_seconds"].items()))
    print(f"results.json, table.md, pictures and models are in {args.output_dir}")


if __name__ == "__main__":
    main()
