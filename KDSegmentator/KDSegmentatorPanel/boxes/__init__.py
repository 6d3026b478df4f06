"""The boxes of the panel: each shows a part of the state in its widgets, and hands on what the user does there."""
