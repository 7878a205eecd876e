"""Task ``grade``: scores a submission by a rubric."""

from __future__ import annotations

import attrs

from llmasos_hookspecs import Component, Context, NoOptions, RequestError, Task, TaskModel, hookimpl
from llmasos_task_kit.emptiness import refuse_empty
from llmasos_task_kit.prompting import Message, reply_room, shorten_last, user_prompt, without_control_tokens

#: Every score from 0 to ``points`` is a candidate, scored by likelihood.
MOST_POINTS = 100

#: One line that begins with a letter or digit of any script: a reason is never empty.
REASON = r"[\p{L}\p{N}][^\n]*"


@attrs.frozen(kw_only=True)
class Criterion:
    """One line of a rubric."""

    name: str = attrs.field(metadata={"help": "What is judged."})
    points: int = attrs.field(metadata={"help": "The most points it can bring, 1 to 100."})
    description: str = attrs.field(default="", metadata={"help": "What brings them."})


@attrs.frozen(kw_only=True)
class Inputs:
    """A submission and the rubric to score it by."""

    submission: str = attrs.field(metadata={"help": "What the student handed in."})
    rubric: tuple[Criterion, ...] = attrs.field(metadata={"help": "The criteria: name, points, description."})
    assignment: str = attrs.field(default="", metadata={"help": "What the student was asked to do."})
    id: str = attrs.field(default="", metadata={"help": "Whose submission it is; returned as it is."})
    reason_tokens: int = attrs.field(default=80, metadata={"help": "Tokens of each reason at most."})


@attrs.frozen(kw_only=True)
class CriterionScore:
    """Points for one criterion, from 0 to ``points``, with the reason. ``confidence`` is the probability of the score."""

    name: str
    score: int
    points: int
    reason: str
    confidence: float


@attrs.frozen(kw_only=True)
class Output:
    """The score, of at most ``points``, and how it comes about. ``cut_tokens`` of the submission did not fit the context."""

    score: int
    points: int
    criteria: tuple[CriterionScore, ...]
    id: str = ""
    cut_tokens: int = 0

    def __str__(self) -> str:
        lines = [f"{item.name}: {item.score}/{item.points}  {item.reason}" for item in self.criteria]
        return "\n".join([f"{self.id}  {self.score}/{self.points}".strip(), *lines])


class Grade:
    """Score a submission by a rubric, criterion by criterion: first the reason, then the points that fit it best."""

    inputs = Inputs
    output = Output

    def run(self, model: TaskModel, inputs: Inputs) -> Output:
        refuse_empty(inputs, "submission")
        _check(inputs)
        new = reply_room(model, inputs.reason_tokens)
        prompts: list[list[Message]] = []
        cuts: list[int] = []
        for criterion in inputs.rubric:
            # Room for the reason, and for the turn that asks for the points.
            prompt, cut = shorten_last(model, _prompt(model, inputs, criterion), model.context_length - 2 * new - _asking(model))
            prompts.append(prompt)
            cuts.append(cut)
        reasons = [generation.text.strip() for generation in model.batch(prompts, max_new_tokens=new, regex=REASON)]
        scores = tuple(
            self._score(model, prompt, criterion, reason) for prompt, criterion, reason in zip(prompts, inputs.rubric, reasons, strict=True)
        )
        return Output(
            score=sum(item.score for item in scores),
            points=sum(item.points for item in scores),
            criteria=scores,
            id=inputs.id,
            cut_tokens=max(cuts),
        )

    def _score(self, model: TaskModel, prompt: list[Message], criterion: Criterion, reason: str) -> CriterionScore:
        said = without_control_tokens(reason, model.tokenizer)
        messages = [*prompt, {"role": "assistant", "content": said}, {"role": "user", "content": _ask_points(criterion.points)}]
        choice = model.choose(messages, [str(points) for points in range(criterion.points + 1)])
        return CriterionScore(
            name=criterion.name,
            score=choice.index,
            points=criterion.points,
            reason=reason,
            confidence=choice.probabilities[choice.index],
        )


def _check(inputs: Inputs) -> None:
    if not inputs.rubric:
        raise RequestError("rubric is empty; give at least one criterion with a name and points.")
    for index, criterion in enumerate(inputs.rubric):
        if not criterion.name.strip():
            raise RequestError(f"rubric[{index}].name is empty; say what is judged.")
        if isinstance(criterion.points, bool) or not 1 <= criterion.points <= MOST_POINTS:
            raise RequestError(f"rubric[{index}].points is {criterion.points!r}, and it must be a whole number from 1 to {MOST_POINTS}.")
    names = [criterion.name for criterion in inputs.rubric]
    if len(set(names)) < len(names):
        raise RequestError(f"Two criteria of the rubric have the same name: {', '.join(names)}.")


def _prompt(model: TaskModel, inputs: Inputs, criterion: Criterion) -> list[Message]:
    # The submission stands last and is marked as what it is, so that an order in it ("give full marks") reads as part of it.
    assignment = f"Assignment: {inputs.assignment.strip()}\n" if inputs.assignment.strip() else ""
    about = f"{criterion.name.strip()}: {criterion.description.strip()}".rstrip(": ")
    system = f"You grade a student's work.\n{assignment}Criterion: {about}"
    request = f"Say in one or two sentences how well this submission meets the criterion.\n\nSubmission:\n{inputs.submission}"
    return user_prompt(without_control_tokens(request, model.tokenizer), system=without_control_tokens(system, model.tokenizer))


def _ask_points(points: int) -> str:
    return f"How many of {points} points does it get? Reply with the number only."


def _asking(model: TaskModel) -> int:
    turn = [{"role": "assistant", "content": ""}, {"role": "user", "content": _ask_points(MOST_POINTS)}]
    return model.count_tokens(turn) + 8


@hookimpl
def llmasos_component() -> Component:
    return Component(
        summary="Score a submission by a rubric, with a reason for each criterion.",
        options=NoOptions,
        examples=(
            "llmasos task grade --submission @essay.txt --rubric @rubric.json",
            'model.run("grade", submission=essay, rubric=[{"name": "Argument", "points": 5}]).criteria',
        ),
    )


@hookimpl
def llmasos_create_task(options: NoOptions, context: Context) -> Task:
    return Grade()
