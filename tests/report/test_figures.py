"""What the figures show (the data), and that the drawings are whole and readable from 2 to 44 tasks."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from tim_search.report import figures
from tim_search.report.figures import confirmed as confirmed_figures
from tim_search.results.verdicts import Kind, Verdict
from tim_search.tim import scores as tim
from tim_search.tim.result import MOST_SHOWN, TimResult, most_telling, rank_heatmap, surest
from tim_search.types import BadInput, Task, subset

SIX = ("hospdead", "dnr_later", "dzclass", "slos_log", "avtisst", "phenotype")
KINDS = ("binary", "binary", "multiclass", "regression", "regression", "clustering")
TASKS = {
    name: Task(name, kind, department=department)
    for name, kind, department in zip(
        SIX, KINDS, ("mortality", "care", "disease", "stay", "care", "disease"), strict=True
    )
}
NAN = float("nan")


def result(names: tuple[str, ...] = SIX, seed: int = 0) -> TimResult:
    """Sampled TIM scores of a noisy additive game: some cells differ from zero, most do not."""
    rng = np.random.default_rng(seed)
    m = len(names)
    membership = rng.random((max(80, 6 * m), m)) < 0.5
    effects = rng.normal(0, 0.004, (m, m)) * (rng.random((m, m)) < 0.4)
    scores = 0.7 + membership @ effects.T + rng.normal(0, 0.003, membership.shape)
    return tim.estimate(membership, np.where(membership, scores, np.nan), method="ols", tasks=names)


def replaced(base: TimResult, **changes: object) -> TimResult:
    return TimResult(**{**{name: getattr(base, name) for name in base.__dataclass_fields__}, **changes})  # type: ignore[arg-type]


def test_lines_of_one_source(tmp_path: Path) -> None:
    steps = [(20, result(seed=1)), (40, result(seed=2)), (80, result())]
    data = figures.convergence_data(steps, "slos_log", TASKS)
    row = SIX.index("slos_log")
    assert data.x.tolist() == [20, 40, 80]
    assert len(data.others) == 5
    final = steps[-1][1].estimate[row]
    assert [final[SIX.index(name)] for name in data.others] == sorted(np.delete(final, row), reverse=True)
    assert data.value[-1].tolist() == [final[SIX.index(name)] for name in data.others]
    assert data.low[0, 0] == steps[0][1].low[row, SIX.index(data.others[0])]
    saved(figures.draw_lines(data), tmp_path)
    names, many = forty_four()
    wide = figures.convergence_data([(300, result(names))], names[0], many)
    assert len(wide.others) == 6
    with pytest.raises(BadInput, match="no results to draw"):
        figures.convergence_data([], "slos_log")
    with pytest.raises(BadInput, match="no source task 'nobody'"):
        figures.convergence_data(steps, "nobody")


def test_a_control_stands_apart_behind_the_others() -> None:
    base = replaced(result(), control="dzclass")
    for tasks in (None, TASKS):
        data = figures.heatmap_data(base, "value", tasks=tasks)
        assert data.tasks[-1] == "dzclass"
        assert sorted(data.tasks) == sorted(SIX)
        assert data.departments[-1] == ("negative control", 5, 6)
        assert data.departments[0][1] == 0
        row, column = SIX.index("slos_log"), SIX.index("dzclass")
        assert data.cells[data.tasks.index("slos_log"), -1] == base.estimate[row, column]
    labels = [text.get_text() for text in figures.draw_heatmap(data).texts]
    assert "negative control" in labels
    assert "dzclass (negative control)" in figures.forest_data(base, "hospdead").others


def forty_four() -> tuple[tuple[str, ...], dict[str, Task]]:
    names = tuple(f"diagnosis_{index:02d}_of_44" for index in range(44))
    return names, {name: Task(name, "binary", department=f"dept. {index % 11}") for index, name in enumerate(names)}


def figure_of(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


def saved(ax: Axes, folder: Path) -> np.ndarray:
    """The PNG of a figure as an array (height, width, 3) in 0..1, after a look that it is whole and readable."""
    path = figures.save(ax, folder / "sub" / "figure.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [other.name for other in path.parent.iterdir()] == ["figure.png"], "nothing is left aside"
    assert_readable(figure_of(ax))
    return np.asarray(matplotlib.image.imread(path))[..., :3]


def assert_readable(figure: Figure) -> None:
    """Nothing is cut off at the figure's edge, and no two texts lie on one another."""
    drawn = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert min(drawn.x0, drawn.y0) > -1, f"cut off at the left or below: {drawn}"
    assert drawn.x1 < figure.bbox.width + 1, f"cut off at the right: {drawn}"
    assert drawn.y1 < figure.bbox.height + 1, f"cut off above: {drawn}"
    # Slanted labels have overlapping frames without touching; those at right angles must keep apart.
    boxes = [
        (text.get_text(), text.get_window_extent().padded(-1))
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text() and text.get_rotation() % 90 == 0
    ]
    boxes = [(text, box) for text, box in boxes if figure.bbox.padded(1).fully_overlaps(box)]
    edges = np.array([(box.x0, box.y0, box.x1, box.y1) for _, box in boxes])
    apart = (edges[:, None, :2] > edges[None, :, 2:]).any(axis=2)
    for one, other in zip(*np.nonzero(~(apart | apart.T)), strict=True):
        assert one == other, f"{boxes[one][0]!r} and {boxes[other][0]!r} lie on one another"


# Heatmap --------------------------------------------------------------------------------------------------------------


def test_ranks_are_signed_within_the_row_and_the_diagonal_is_zero() -> None:
    estimate = np.array([[NAN, 0.2, 0.1, -0.3], [-0.1, NAN, -0.2, -0.3], [0.1, 0.0, NAN, NAN], [1, 2, 3, NAN]])
    base = result(("a", "b", "c", "d"))
    data = figures.heatmap_data(replaced(base, estimate=estimate))
    expected = np.array([[0, 2, 1, -1], [-1, 0, -2, -3], [1, 0, 0, NAN], [1, 2, 3, 0]])
    np.testing.assert_array_equal(data.cells, expected)
    assert (data.limits == 3).all()
    assert data.numbers is not None
    assert data.numbers[0] == ("0", "+2", "+1", "\N{MINUS SIGN}1")
    assert data.numbers[2][3] == "", "no number where nothing is known"


def test_values_are_shown_in_as_many_digits_as_they_need() -> None:
    estimate = np.array([[NAN, 0.0031, -0.0124], [0.0007, NAN, NAN], [-0.0052, 0.0, NAN]])
    data = figures.heatmap_data(replaced(result(("a", "b", "c")), estimate=estimate), "value")
    np.testing.assert_array_equal(data.cells[~np.eye(3, dtype=bool)], estimate[~np.eye(3, dtype=bool)])
    assert data.numbers == (("0", "+.0031", "−.0124"), ("+.00070", "0", ""), ("−.0052", "0", "0"))  # noqa: RUF001


def test_by_value_each_row_has_its_own_colours() -> None:
    # Three metrics on three scales: the colours compare within a row, never between two.
    estimate = np.array([[NAN, 0.02, -0.01, 0.0], [4e-5, NAN, 2e-5, NAN], [0.0, 0.0, NAN, 0.0], [5.0, 0.3, -0.3, NAN]])
    base = replaced(result(("a", "b", "c", "d")), estimate=estimate, low=estimate - 1e-6, high=estimate + 1e-6)
    data = figures.heatmap_data(base, "value")
    assert data.shades[0, 1:3].tolist() == [1.0, pytest.approx(-0.5, abs=0.03)]
    assert data.shades[1, [0, 2]].tolist() == [1.0, pytest.approx(0.5, abs=0.03)]
    assert data.shades[2].tolist() == [0.0, 0.0, 0.0, 0.0]
    assert np.isnan(data.shades[1, 3])
    assert (data.limits > 0).all()
    # Nor does one large cell bleach the others of a long row.
    m = 40
    bleached = np.where(np.eye(m, dtype=bool), NAN, 0.01)
    bleached[0, 1] = 5.0
    names = tuple(map(str, range(m)))
    fields = dict.fromkeys(("low", "high", "p_value", "se"), np.full((m, m), NAN))
    wide = replaced(base, tasks=names, estimate=bleached, rejected=np.zeros((m, m), bool), **fields)
    assert figures.heatmap_data(wide, "value").limits[0] < 0.02


def test_overlaps_and_the_control_do_not_set_the_colours_of_a_row() -> None:
    estimate = np.array([[NAN, 0.5, 0.01, 0.4], [0.1, NAN, 0.1, 0.1], [0.1, 0.1, NAN, 0.1], [0.1, 0.1, 0.1, NAN]])
    base = replaced(result(("a", "b", "c", "d")), estimate=estimate, control="d")
    data = figures.heatmap_data(base, "value", [("a", "b")])
    assert data.limits[0] == pytest.approx(0.01)
    assert data.shades[0, 1] == 0, "an overlap has no colour, only its hatching"
    assert data.numbers is not None
    assert data.numbers[0][1], "... and its number"


def test_cells_without_evidence_are_pale_by_value() -> None:
    estimate = np.where(np.eye(3, dtype=bool), NAN, 0.1)
    low = np.array([[NAN, 0.05, -0.05], [NAN, NAN, 0.05], [-0.05, -0.2, NAN]])
    found = np.zeros((3, 3), bool)
    found[2, 1] = True
    base = replaced(result(("a", "b", "c")), estimate=estimate, low=low, high=low + 0.1, rejected=found)
    data = figures.heatmap_data(base, "value")
    assert np.argwhere(data.muted).tolist() == [[0, 2], [1, 0], [2, 0]]
    assert not figures.heatmap_data(base, "rank").muted.any(), "the paper's figure stays as it is"
    ax = figures.draw_heatmap(data)
    assert "pale: no interval without 0" in [text.get_text() for text in ax.get_legend().get_texts()]
    drawn = ax.images[0].get_array()
    assert drawn[0, 1] == 1.0
    assert drawn[0, 2] == pytest.approx(figures.MUTED)


def test_a_source_that_has_not_learnt_has_a_grey_row_with_the_word(tmp_path: Path) -> None:
    sure = np.ones((6, 6))
    base = replaced(result(), low=sure, high=2 * sure, rejected=sure.astype(bool))
    kinds: tuple[figures.HeatmapKind, ...] = ("value", "rank")
    for kind in kinds:
        data = figures.heatmap_data(base, kind, [SIX[:2]], unlearnt={"hospdead", "phenotype", "not in this search"})
        assert [name for name, grey in zip(data.tasks, data.unlearnt, strict=True) if grey] == ["hospdead", "phenotype"]
        assert np.isnan(data.shades[data.unlearnt]).all()
        assert not (data.discovered | data.excludes_zero | data.muted)[data.unlearnt].any()
        assert data.discovered[1:5].sum() == 4 * 5 - 1
        assert data.numbers is not None
        assert set(data.numbers[0]) == {""}
        ax = figures.draw_heatmap(data)
        image = saved(ax, tmp_path)
        assert [text.get_text() for text in ax.texts].count("has not learnt") == 2
        x, y = ax.transData.transform((0.0, 0.35)) / figure_of(ax).bbox.size  # also on the diagonal
        np.testing.assert_allclose(
            image[int((1 - y) * len(image)), int(x * image.shape[1])], to_rgb(figures.MISSING), atol=0.01
        )


def test_the_title_keeps_the_name_of_a_restricted_score() -> None:
    membership = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], bool)
    pairs = tim.estimate(membership, np.where(membership, 0.5, np.nan), method="restricted", tasks=("a", "b", "c"))
    for kind in ("rank", "value"):
        data = figures.heatmap_data(pairs, kind, search="demo")
        assert data.title.startswith("demo · restricted TIM")
        ax = figures.draw_heatmap(data)
        assert figure_of(ax).get_suptitle().replace("\n", " ") == data.title


def test_overlapping_targets_are_hatched_and_no_finding() -> None:
    sure = np.ones((6, 6))
    base = replaced(result(), low=sure, high=2 * sure, rejected=sure.astype(bool))
    data = figures.heatmap_data(base, overlaps=[("slos_log", "avtisst"), ("slos_log", "not in this search")])
    at = SIX.index("slos_log"), SIX.index("avtisst")
    assert data.hatched.sum() == 2
    assert data.hatched[at]
    assert data.hatched[at[::-1]]
    assert not data.discovered[at]
    assert not data.excludes_zero[at[::-1]]
    assert data.discovered.sum() == 30 - 2, "the diagonal is no finding either"
    hatched = [
        patch for patch in figures.draw_heatmap(data).patches if isinstance(patch, Rectangle) and patch.get_hatch()
    ]
    assert sorted((patch.get_y() + 0.5, patch.get_x() + 0.5) for patch in hatched) == sorted([at, at[::-1]])


def test_tasks_of_a_department_stand_together() -> None:
    base = result()
    data = figures.heatmap_data(base, "value", tasks=TASKS)
    assert data.tasks == ("hospdead", "dnr_later", "avtisst", "dzclass", "phenotype", "slos_log")
    assert data.departments == (("mortality", 0, 1), ("care", 1, 3), ("disease", 3, 5), ("stay", 5, 6))
    assert data.row_labels[0] == "hospdead (AUROC)"
    order = [SIX.index(name) for name in data.tasks]
    moved = np.where(np.eye(6, dtype=bool), 0, base.estimate)[np.ix_(order, order)]
    np.testing.assert_array_equal(data.cells, moved)
    np.testing.assert_array_equal(data.discovered, base.rejected[np.ix_(order, order)])
    # A task without a department comes last, under no name; without any, the order is the search's.
    some = {name: task for name, task in TASKS.items() if name != "hospdead"}
    assert figures.heatmap_data(base, tasks=some).departments[-1] == ("", 5, 6)
    assert figures.heatmap_data(base, tasks=some).tasks[-1] == "hospdead"
    assert figures.heatmap_data(base).tasks == SIX
    assert figures.heatmap_data(base).departments == ()


def test_colours_say_gain_loss_self_and_unknown(tmp_path: Path) -> None:
    estimate = np.array([[NAN, 0.2, NAN], [-0.2, NAN, 0.1], [0.1, -0.1, NAN]])
    unsure = np.full((3, 3), NAN)
    base = replaced(
        result(("a", "b", "c")), estimate=estimate, low=unsure, high=unsure, rejected=np.zeros((3, 3), bool)
    )
    for kind in ("rank", "value"):
        ax = figures.draw_heatmap(figures.heatmap_data(base, kind))
        image = saved(ax, tmp_path)

        def shade(row: int, column: int, ax: Axes = ax, image: np.ndarray = image) -> np.ndarray:
            x, y = ax.transData.transform((column - 0.35, row + 0.35)) / figure_of(ax).bbox.size
            return np.asarray(image[int((1 - y) * image.shape[0]), int(x * image.shape[1])])

        red, blue = shade(0, 1), shade(1, 0)
        apart = 0.2 if kind == "rank" else 0.1  # by value these cells are pale: they have no interval
        assert red[0] > red[2] + apart
        assert blue[2] > blue[0] + apart
        np.testing.assert_allclose(shade(0, 0), (1, 1, 1), atol=0.01)
        np.testing.assert_allclose(shade(0, 2), to_rgb(figures.MISSING), atol=0.01)
        assert "not estimable" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_the_legend_explains_what_is_there_and_nothing_else() -> None:
    none = np.full((6, 6), NAN)
    plain = replaced(result(), low=none, high=none, rejected=np.zeros((6, 6), bool))
    assert figures.draw_heatmap(figures.heatmap_data(plain)).get_legend() is None
    full = figures.draw_heatmap(figures.heatmap_data(result(), overlaps=[SIX[:2]]))
    assert [text.get_text() for text in full.get_legend().get_texts()] == [
        "discovery (FDR)",
        "interval excludes 0",
        "overlapping targets: no finding",
    ]
    by_value = figures.draw_heatmap(figures.heatmap_data(plain, "value"))
    assert [text.get_text() for text in by_value.get_legend().get_texts()] == ["pale: no interval without 0"]


@pytest.mark.parametrize(("kind", "m"), [("value", 2), ("rank", 6), ("value", 6), ("value", 12), ("rank", 44)])
def test_heatmaps_are_readable(kind: figures.HeatmapKind, m: int, tmp_path: Path) -> None:
    names, tasks = forty_four()
    base = result(names[:m], seed=m)
    estimate = base.estimate.copy()
    estimate[0, 1] = NAN
    data = figures.heatmap_data(replaced(base, estimate=estimate), kind, [names[:2]], tasks, search="a-search")
    assert (data.numbers is None) == (m > figures.MAX_TASKS_WITH_NUMBERS)
    ax = figures.draw_heatmap(data)
    height, width = saved(ax, tmp_path).shape[:2]
    assert max(height, width) < 20 * figures.DPI, "it fits on a screen"


def test_of_many_tasks_the_most_telling_are_drawn(tmp_path: Path) -> None:
    m = 200
    names = tuple(f"a clinical outcome, number {k}" for k in range(m))
    rng = np.random.default_rng(0)
    base = result(names[:2])
    estimate, flat = rng.normal(0, 1e-3, (m, m)), np.full((m, m), 1e-3)
    estimate[150, 7] = estimate[20, 190] = 0.05
    estimate[30, 31] = 0.5  # the largest, but of two targets that are one
    estimate[:, 9] = 0.2  # ... and of the control
    fields = dict.fromkeys(("low", "high", "p_value", "false_sign_rate"), np.full((m, m), NAN))
    wide = replaced(
        base, tasks=names, estimate=estimate, se=flat, rejected=np.zeros((m, m), bool), control=names[9], **fields
    )
    assert surest(wide, [(names[30], names[31])])[:2].tolist() == [[20, 190], [150, 7]]
    data = figures.heatmap_data(wide, "rank", [(names[30], names[31])], search="wide", most=20)
    assert len(data.tasks) == 20
    assert {names[at] for at in (7, 20, 150, 190)} < set(data.tasks)
    assert data.tasks[-1] == names[9], "the control is told of, and stands last"
    assert "the 20 most telling of 200 tasks" in data.title
    at = data.tasks.index(names[20]), data.tasks.index(names[190])
    assert data.cells[at] == rank_heatmap(estimate)[20, 190] > 20, "ranks are those among all tasks"
    assert saved(figures.draw_heatmap(data), tmp_path).shape[0] < 12 * figures.DPI
    assert len(figures.heatmap_data(wide, "value").tasks) == MOST_SHOWN
    assert most_telling(wide, m) == names


def test_sizes_within_a_row_choose_where_nothing_is_known_of_the_errors() -> None:
    names = ("a", "b", "c", "d")
    unknown = np.full((4, 4), NAN)
    estimate = np.array([[NAN, 9.0, 1.0, 0.0], [0.1, NAN, 0.0, 0.4], [0, 0, NAN, 0], [NAN, NAN, NAN, NAN]])
    base = replaced(result(SIX[:4]), tasks=names, estimate=estimate, se=unknown, rejected=np.zeros((4, 4), bool))
    assert surest(base)[:4].tolist() == [[0, 1], [1, 3], [1, 0], [0, 2]]
    assert most_telling(base, 3) == ("a", "b", "d")


def test_a_forest_of_hundreds_shows_both_ends(tmp_path: Path) -> None:
    m = 120
    names = tuple(f"outcome {k}" for k in range(m))
    base = result(names[:2])
    estimate = np.tile(np.arange(m) - 60.0, (m, 1))
    unknown = np.full((m, m), NAN)
    wide = replaced(base, tasks=names, estimate=estimate, low=unknown, high=unknown, rejected=np.zeros((m, m), bool))
    data = figures.forest_data(wide, "outcome 0")
    assert (data.others[0], data.others[-1], len(data.others)) == ("outcome 119", "outcome 1", figures.MAX_ROWS)
    assert data.left_out == m - 1 - figures.MAX_ROWS
    ax = figures.draw_forest(data)
    assert f"{data.left_out} tasks between are not drawn" in ax.get_xlabel()
    assert saved(ax, tmp_path).shape[0] < 16 * figures.DPI


def test_no_lines_at_all(tmp_path: Path) -> None:
    data = figures.convergence_data([(20, result(SIX[:1])), (40, result(SIX[:1]))], SIX[0])
    assert data.others == ()
    saved(figures.draw_lines(data), tmp_path)


def test_all_scores_zero_or_unknown(tmp_path: Path) -> None:
    for value in (0.0, NAN):
        data = figures.heatmap_data(replaced(result(), estimate=np.full((6, 6), value)), "value")
        assert (data.limits > 0).all()
        saved(figures.draw_heatmap(data), tmp_path)


def test_another_kind_of_heatmap() -> None:
    with pytest.raises(BadInput, match="'rank' or 'value', got 'z'"):
        figures.heatmap_data(result(), "z")  # type: ignore[arg-type]


def test_it_draws_on_a_given_axis_and_leaves_pyplot_alone() -> None:
    figure = Figure(figsize=(16, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    assert figures.draw_heatmap(figures.heatmap_data(result()), left) is left
    assert figures.draw_forest(figures.forest_data(result(), "hospdead"), right) is right
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


# Forest ---------------------------------------------------------------------------------------------------------------


def test_a_forest_runs_from_the_best_helper_to_the_worst_harmer(tmp_path: Path) -> None:
    estimate, low, high = np.full((3, 6, 6), NAN)
    rejected = np.zeros((6, 6), bool)
    estimate[0] = [NAN, -0.1, 0.3, NAN, 0.2, 0.2]
    low[0], high[0] = estimate[0] - 0.15, estimate[0] + 0.15
    rejected[0, [2, 4]] = True
    base = replaced(result(), estimate=estimate, low=low, high=high, rejected=rejected)
    data = figures.forest_data(base, "hospdead", [("avtisst", "hospdead")], TASKS)
    assert data.others == ("dzclass", "avtisst", "phenotype", "dnr_later"), "equal scores by name"
    assert data.estimate.tolist() == [0.3, 0.2, 0.2, -0.1]
    assert data.discovered.tolist() == [True, False, False, False], "an overlapping target is no discovery"
    assert data.overlapping.tolist() == [False, True, False, False]
    assert data.not_estimable == ("slos_log",)
    assert "hospdead (AUROC)" in data.axis_label
    ax = figures.draw_forest(data)
    saved(ax, tmp_path)
    assert [label.get_text() for label in ax.get_yticklabels()][1] == "avtisst (overlapping target)"
    assert "slos_log" in ax.get_xlabel()


@pytest.mark.parametrize("m", [2, 44])
def test_forests_are_readable(m: int, tmp_path: Path) -> None:
    names, tasks = forty_four()
    ax = figures.draw_forest(figures.forest_data(result(names[:m], seed=3), names[0], tasks=tasks))
    saved(ax, tmp_path)


def test_a_forest_of_a_source_that_is_not_there() -> None:
    with pytest.raises(BadInput, match=r"no source task 'hospdeath'.*hospdead"):
        figures.forest_data(result(), "hospdeath")


# Attention ------------------------------------------------------------------------------------------------------------


def attention(names: tuple[str, ...], sizes: tuple[int, ...]) -> pd.DataFrame:
    """Weights as a network gives them: each task's sum to 1, and most lies on itself."""
    rng = np.random.default_rng(0)
    rows = []
    for members in itertools.chain.from_iterable(itertools.combinations(names, size) for size in sizes):
        for seed, task in itertools.product((0, 1), members):
            weights = np.exp([(name == task) + 0.1 * rng.random() for name in members])
            rows += [
                {"subset": list(members), "seed": seed, "fold": 0, "task": task, "other": other, "weight": weight}
                for other, weight in zip(members, weights / weights.sum(), strict=True)
            ]
    return pd.DataFrame(rows)


def test_attention_is_averaged_within_one_size() -> None:
    frame = attention(SIX, (2, 3))
    data = figures.attention_data(frame, SIX, 3)
    mine = frame[(frame["task"] == "dzclass") & (frame["other"] == "avtisst") & (frame["subset"].str.len() == 3)]
    assert data.weight[SIX.index("dzclass"), SIX.index("avtisst")] == pytest.approx(mine["weight"].mean())
    assert data.subsets[SIX.index("dzclass"), SIX.index("avtisst")] == 4, "two seeds of a subset count once"
    assert data.subsets[0, 0] == 10
    assert "3 tasks" in data.title
    fewer = figures.attention_data(frame, SIX[:4], 3)
    assert fewer.subsets.max() == 3, "subsets with tasks that are not shown are left out"


def test_attention_of_some_of_the_tasks() -> None:
    frame = attention(SIX, (2, 3))
    whole, part = (figures.attention_data(frame, SIX, 3, shown=shown) for shown in ((), ("avtisst", "dzclass")))
    assert part.tasks == ("dzclass", "avtisst")
    assert part.weight[0, 1] == whole.weight[SIX.index("dzclass"), SIX.index("avtisst")], "of the same subsets"
    assert "2 of 6 tasks" in part.title
    only = frame[frame["subset"].map(lambda members: len(members) == 2 or "avtisst" not in members)]
    assert figures.attention_size(only, SIX) == 2
    assert figures.attention_size(only, SIX, ("hospdead", "dzclass")) == 3
    trained = np.array([[True, False], [True, True]])
    assert figures.attention_weights(np.array([[True, True, True], [True, False, True]]), trained) == 9 + 2 * 4


def test_attention_that_is_not_there() -> None:
    with pytest.raises(BadInput, match=r"occur are \[2, 3\]"):
        figures.attention_data(attention(SIX, (2, 3)), SIX, 4)
    with pytest.raises(BadInput, match="occur are none"):
        figures.attention_data(attention(SIX, (2,)).iloc[:0], SIX, 2)


@pytest.mark.parametrize("m", [2, 6, 20])
def test_attention_maps_are_readable(m: int, tmp_path: Path) -> None:
    names, tasks = forty_four()
    frame = attention(names[:m], (2,)).iloc[:-2]
    frame.loc[0, "weight"] = NAN
    ax = figures.draw_attention(figures.attention_data(frame, names[:m], 2, tasks))
    saved(ax, tmp_path)


# Expansion ------------------------------------------------------------------------------------------------------------


def judged(source: str, kind: Kind, gain: tuple[float, float, float], *added: str) -> Verdict:
    return Verdict(source, "auroc", kind, subset((source, *added)), *gain, 0.7, "validation", (), "a reason")


def test_the_figure_shows_the_verdicts_and_nothing_else(tmp_path: Path) -> None:
    verdicts = [
        judged("hospdead", "confirmed", (0.02, 0.01, 0.03), "dnr_later", "avtisst"),
        judged("dnr_later", "promising", (0.02, 0.01, 0.05), "x"),
        judged("x", "refuted", (-0.03, -0.05, -0.01), "avtisst"),
        judged("slos_log", "keep alone", (-0.01, -0.03, 0.01)),
        judged("phenotype", "has not learnt", (NAN, NAN, NAN)),
    ]
    data = figures.expansion_data(verdicts, TASKS, search="demo")
    assert data.words == tuple(each.words for each in verdicts)
    assert data.gain[:4].tolist() == [0.02, 0.02, -0.03, -0.01]
    ax = figures.draw_expansion(data)
    saved(ax, tmp_path)
    texts = [text.get_text() for text in ax.texts]
    assert texts == [
        "confirmed with avtisst + dnr_later", "promising with x (not confirmed)", "refuted with avtisst", "keep alone",
        "has not learnt",
    ]  # fmt: skip
    legend = ax.get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == 4, "what has not learnt has no point"


def test_gains_are_readable(tmp_path: Path) -> None:
    names, tasks = forty_four()
    rng = np.random.default_rng(0)
    verdicts = [
        judged(
            name, "promising" if gain > 0.01 else "keep alone", (gain, gain - 0.01, gain + 0.01), *rng.choice(names, 2)
        )
        for name, gain in zip(names, rng.normal(0.01, 0.01, 44), strict=True)
    ]
    ax = figures.draw_expansion(figures.expansion_data(verdicts, tasks, search="a-search"))
    saved(ax, tmp_path)


def test_of_many_gains_the_surest_are_drawn_and_long_names_leave_room() -> None:
    gains = [(0.01 * k, 0.01 * k - 0.1, 0.01 * k + 0.1) for k in range(60)]
    long = "a task with quite a long name, as of a table of phenotypes, number {}"
    verdicts = [
        judged(long.format(k), "promising" if k == 5 else "keep alone", gain, long.format(99))
        for k, gain in enumerate(gains)
    ]
    data = figures.expansion_data(verdicts, search="wide")
    assert len(data.labels) == figures.MAX_ROWS
    assert data.labels == (long.format(5), *(long.format(k) for k in range(21, 60)))
    assert "40 of 60 sources" in data.title
    ax = figures.draw_expansion(data)
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    assert ax.get_position().width * figure.get_size_inches()[0] > 2, "the plot itself is wide enough to be read"


def test_of_many_confirmations_the_surest_are_drawn() -> None:
    row = {"chosen": "a + x", "metric": "auroc", "low": -0.1, "high": 0.1, "percent": 1.0, "single": 0.7}
    row |= {"multi": 0.7, "single_sd": 0.01, "multi_sd": 0.01, "rejected": False}
    rows = [{**row, "source": f"s{k:02d}", "difference": 0.001 * k} for k in range(60)]
    rows[3] |= {"rejected": True}
    rows[59] |= {"difference": NAN}
    data = confirmed_figures.forest_data(rows, "wide")
    assert [label.split()[0] for label in data.labels] == ["s03", *(f"s{k}" for k in range(20, 59))]
    assert data.title.endswith(", 40 of 59 sources")
    few = confirmed_figures.forest_data(rows[:10], "narrow")
    assert len(few.labels) == 10
    assert few.title.endswith("patients")


def test_no_verdicts() -> None:
    with pytest.raises(BadInput, match="no verdicts"):
        figures.expansion_data([])


def test_the_attention_shown_is_of_the_size_that_knows_the_most_pairs() -> None:
    def frame(*subsets: str) -> pd.DataFrame:
        rows = [(tuple(members), a, b) for members in subsets for a in members for b in members]
        return pd.DataFrame(rows, columns=["subset", "task", "other"])

    names = tuple("abcd")
    pairs, triples = ("ab", "ac", "ad", "bc", "bd", "cd"), ("abc", "abd", "acd", "bcd")
    assert figures.attention_size(frame(*pairs, *triples, "abcd"), names) == 3
    assert figures.attention_size(frame(*pairs, "abc"), names) == 2
    assert figures.attention_size(frame("ab", "abc", "abcd"), names) == 4
    assert figures.attention_size(frame("ab", "xyzw"), names) == 2, "subsets with other tasks do not count"
    assert figures.attention_size(frame("a"), names) is None
    assert figures.attention_size(frame("a"), ("a",)) is None
