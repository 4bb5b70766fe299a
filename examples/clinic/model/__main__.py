"""`python -m examples.clinic.model --port 9001 --first-token-s 0.8 --tokens-per-s 40 --seed 7`"""

import click
import uvicorn

from examples.clinic.listening import serve
from examples.clinic.model.completion import Pace
from examples.clinic.model.server import create_app
from examples.clinic.model.texts import Author


@click.command(help=__doc__)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=9001, show_default=True, help="0 takes a free one.")
@click.option("--first-token-s", default=0.8, show_default=True, help="Seconds before the first token.")
@click.option("--tokens-per-s", default=40.0, show_default=True, help="Speed after that.")
@click.option("--tokens", default=120, show_default=True, help="About as long is every answer.")
@click.option("--seed", default=7, show_default=True, help="Same seed and same messages: same text.")
@click.option("--blank-end", is_flag=True, help="Every answer ends with two line feeds.")
@click.option("--obfuscation", is_flag=True, help="OpenAI's events hide the lengths of their tokens.")
def main(
    host: str, port: int, first_token_s: float, tokens_per_s: float, tokens: int, seed: int, **switches: bool
) -> None:
    author = Author(seed, tokens, has_blank_end=switches["blank_end"])
    app = create_app(Pace(first_token_s, tokens_per_s), author, has_obfuscation=switches["obfuscation"])
    # A second for open streams: what they send is worth nothing once the demo stops.
    config = uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=1)
    serve(config, name="model")


if __name__ == "__main__":
    main()
