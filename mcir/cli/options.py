"""Commands for option files and runs: check, list, schema and report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mcir import registry
from mcir.arguments import OptionFileArguments, option, positional
from mcir.paths import UserPath
from mcir.terminal import show, show_error, show_hint, show_table

Listed = Literal[
    "archs",
    "losses",
    "distances",
    "datasets",
    "degradations",
    "models",
    "metrics",
    "negatives",
    "optimizers",
    "schedulers",
    "options",
]


@dataclass(kw_only=True)
class Check(OptionFileArguments):
    """Check an option file, its data and its paths, and print what a training would do and cost."""

    print: bool = option("print the resolved options, with bases and defaults, as an option file", default=False)
    no_imports: bool = option(
        "do not import the modules in `imports`, which runs their code; for files that you do not trust", default=False
    )

    def run(self) -> int:
        """Print the problems, or what the run would do."""
        from mcir.config import NotImportedError, OptionError, load
        from mcir.engine.loggers import log_to_console
        from mcir.engine.problems import check_run

        log_to_console()
        try:
            options = load(self.opt, self.set, self.force_yml, run_imports=not self.no_imports)
        except NotImportedError as error:
            show(f"{error}\nNothing else is wrong. The classes above, their arguments and the cost were not checked.")
            return 0
        except OptionError as error:
            show_error(str(error))
            show(f"\n{_conclusion(len(error.problems), 0)} Images and other files were not checked.")
            return 1
        checked = check_run(options)
        if self.print:
            show(options.dump())
        show("\n".join(f"# {line}" if self.print else line for line in checked.summary), flush=True)
        for problem in checked.problems:
            show_error(f"\n{problem}")
        end = _conclusion(len(checked.problems), checked.concern_tests)
        show(f"# {end}" if self.print else f"\n{end}")
        return int(bool(checked.problems))


def _conclusion(problems: int, concern_tests: int) -> str:
    """Return the last line of ``mcir check``."""
    if not problems:
        return "No problems found."
    text = f"{problems} {'problem' if problems == 1 else 'problems'} found."
    if not concern_tests:
        return text
    return f"{text} Only for the test sets, which a training does not read: {concern_tests}."


@dataclass(kw_only=True)
class List:
    """List the components that option files can use, or the option files that come with mcir."""

    what: Listed | None = positional(
        "kind of component, or options for the option files (default: list these words)", default=None, metavar="KIND"
    )
    pattern: str = positional("name of a component, for its arguments; or a pattern, like '*SR*'", default="*")

    def run(self) -> int:
        """Print the list."""
        from mcir.config.listing import (
            KINDS,
            OPTION_FILES,
            describe_component,
            list_arguments,
            list_components,
            list_option_files,
        )

        if self.what is None:
            show_table(KINDS.items())
            show_hint("For a list: mcir list KIND, for example mcir list losses")
        elif self.what == OPTION_FILES:
            show_table(list_option_files(self.pattern))
            show_hint("For the options of a file: mcir check NAME")
        elif self.pattern in (components := getattr(registry, self.what.upper())):
            source = components.get(self.pattern).__module__
            show_table([(self.pattern, f"{describe_component(components, self.pattern)} ({source})")])
            show_table([(f"  {name}", text) for name, text in list_arguments(components, self.pattern)])
        else:
            show_table(list_components(components, self.pattern))
            show_hint(f"For the arguments: mcir list {self.what} NAME")
        return 0


@dataclass(kw_only=True)
class Schema:
    """Write a JSON schema of option files, for completion in editors."""

    file: Path | None = positional("output file (default: print the schema)", default=None)

    def run(self) -> int:
        """Write the schema."""
        import json

        from mcir.atomic import check_writable, write_atomically
        from mcir.config import json_schema

        if self.file is not None:
            check_writable(self.file)
        text = json.dumps(json_schema(), indent=2)
        if self.file is None:
            show(text)
        else:
            write_atomically(self.file, (text + "\n").encode())
        return 0


@dataclass(kw_only=True)
class Report:
    """Write an HTML page about one or several trainings, with curves, images and options."""

    runs: list[UserPath] = positional("folder of a training, or its name in experiments/", metavar="RUN")
    output: Path | None = option(
        "output file (default: report.html in the folder of the run, or here for several runs)", "-o", "--output"
    )
    open: bool = option("open the page in the browser", default=False)

    def run(self) -> int:
        """Write the page."""
        import webbrowser

        from mcir.engine.run_lock import is_locked
        from mcir.report.records import find_run
        from mcir.report.run import PAGE, write_report

        folders = [find_run(run) for run in self.runs]
        file = self.output or (folders[0] / PAGE if len(folders) == 1 else Path(PAGE))
        write_report(folders, file, is_locked)
        show(str(file))
        if self.open:
            webbrowser.open(file.resolve().as_uri())
        return 0
