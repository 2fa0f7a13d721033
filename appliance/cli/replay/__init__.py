"""`appliance replay`: sends a recording's observations again, and compares what comes back.

`survey` reads the whole file first, so that nothing is sent of one that is broken; `sending` sends
it, through a socket for each recorded connection, at the recorded pace and not before what had
been heard by then (`lines`, pure); `entry` knows how it comes in; `comparison` (pure) judges each
pair of endings; `report` shows what came of it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from appliance.cli import NOT_QUITE, OK


def run(arguments: argparse.Namespace) -> int:
    """Replay; 0 if what could be compared agrees and there was something, else 1.

    Raises:
        ConfigError: The address is none.
        RecordingError: The file is no recording, is broken, or cannot be replayed like that.
        KeyFileError: A key cannot be used.
        PeerGone: No appliance answers at the address, or it refuses somebody.
    """
    from appliance.cli.replay.comparison import Comparison
    from appliance.cli.replay.entry import check_address, keys_of
    from appliance.cli.replay.report import document, show
    from appliance.cli.replay.sending import Replay
    from appliance.cli.replay.survey import survey

    check_address(arguments.server)
    path = Path(arguments.file)
    found = survey(path)
    comparison = Comparison(arguments.tolerance)
    keys = keys_of(found, Path(arguments.keys) if arguments.keys else None)
    replay = Replay(path, found, comparison, arguments.server, keys, arguments.speed)
    replay.run()
    result = document(path, found, replay, comparison)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)
    return OK if result["agrees"] else NOT_QUITE
