"""Run the digits app with real processes over TLS, or in Flower's simulation engine."""

import argparse
import tempfile
from pathlib import Path

from benchmarks.federated.flower_app.processes import deployed, simulated

_APP = Path(__file__).parent


def main() -> None:
    """Start the processes, run the app, and print the log of its server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("processes", "simulation"), default="processes")
    parser.add_argument("--aggregator", default="matched", help="name in jaxfuse.federated")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2, help="of a client in a round")
    parser.add_argument("--own-start", action="store_true", help="clients begin apart")
    args = parser.parse_args()
    config = {name.replace("_", "-"): value for name, value in vars(args).items()}
    del config["engine"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.engine == "processes":
            with deployed(folder, args.clients) as federation:
                federation.run(_APP, config, show=print)
        else:
            resources = f"num-supernodes={args.clients} client-resources-num-cpus=1"
            with simulated(folder) as federation:
                federation.run(_APP, config, "--federation-config", resources, show=print)


if __name__ == "__main__":
    main()
