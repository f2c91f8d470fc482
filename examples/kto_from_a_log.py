"""Thumbs from an application's log to rows for KTO.

    python examples/kto_from_a_log.py examples/assistant_log.jsonl thumbs.jsonl

The log has one event a line: a turn ("chat", "role", "text", of the assistant also "id") or a thumb ("thumb": "up" or
"down", "id"). A row is the conversation up to an answer, with its last thumb. Answers without one give no row.
"""

import json
import sys
from collections import Counter, defaultdict


def rows_of(events: list[dict]) -> tuple[list[dict], Counter]:
    """Labelled rows, and how many events were turns, thumbs, thumbs taken back, or thumbs for nothing known."""
    chats: dict[str, list[dict]] = defaultdict(list)
    shown: dict[str, list[dict]] = {}  # answer id -> the conversation as it stood then
    thumbs: dict[str, bool] = {}
    counts: Counter = Counter()
    for event in events:
        if "thumb" not in event:
            counts["turns"] += 1
            chats[event["chat"]].append({"role": event["role"], "content": event["text"]})
            if event["role"] == "assistant":
                shown[event["id"]] = list(chats[event["chat"]])
        elif event["id"] not in shown:
            counts["thumbs for unknown answers"] += 1
        else:
            counts["thumbs changed" if event["id"] in thumbs else "thumbs"] += 1
            thumbs[event["id"]] = event["thumb"] == "up"
    return [{"messages": shown[answer], "label": up} for answer, up in thumbs.items()], counts


def main(log: str, output: str) -> None:
    with open(log, encoding="utf-8") as stream:
        rows, counts = rows_of([json.loads(line) for line in stream if line.strip()])
    with open(output, "w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    up = sum(row["label"] for row in rows)
    print(", ".join(f"{name}: {count}" for name, count in counts.items()))
    print(f"{len(rows)} rows, {up} up and {len(rows) - up} down, written to {output}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
