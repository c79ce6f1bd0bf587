"""How programs explain their arguments."""

import argparse


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Every option in one spelling, with a default only where it says something.

    Of an option that is None or off at first, its help says what that means.

    Example:
        >>> parser = argparse.ArgumentParser(formatter_class=HelpFormatter)
        >>> _ = parser.add_argument("--max_steps", "--max-steps", type=int, help="Steps.")
        >>> print(parser.format_help().partition("exit")[2])
        <BLANKLINE>
          --max_steps MAX_STEPS
                                Steps.
        <BLANKLINE>
    """

    def _format_action_invocation(self, action: argparse.Action) -> str:
        spellings = action.option_strings
        try:
            action.option_strings = list({name.replace("-", "_"): name for name in reversed(spellings)}.values())[::-1]
            return super()._format_action_invocation(action)
        finally:
            action.option_strings = spellings

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


__all__ = ["HelpFormatter"]
