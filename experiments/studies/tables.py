"""Tables of the studies."""

import pandas as pd


def markdown(frame: pd.DataFrame) -> str:
    """Return a table in Markdown, without its index."""
    rows = [[str(name) for name in frame.columns], ["---"] * len(frame.columns)]
    rows += frame.astype(object).where(frame.notna(), "").astype(str).to_numpy().tolist()
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
