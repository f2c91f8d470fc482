"""Every finding by its stable name: what is counted, why it matters, what mends it, how bad it is.

`warning_above` and `error_above` are shares of the rows (0: any row at all; 1: never). Findings about the whole set set
their severity themselves, and have no thresholds here.
"""

from __future__ import annotations

from dataclasses import dataclass

from likelier.data.fidelity import LOSSES

NEVER = 1.0


@dataclass(frozen=True)
class Entry:
    """What is always true of a finding. Where rows are to blame (`droppable`), the mend ends with how to drop them."""

    name: str
    title: str
    unit: str
    why: str
    advice: str
    warning_above: float = 0.0
    error_above: float = 0.05
    droppable: bool = True

    @property
    def mend(self) -> str:
        """What to do about it."""
        drop = f" --drop {self.name} --write CLEAN.jsonl takes the rows out." if self.droppable else ""
        return self.advice + drop


_UNUSABLE = {
    "identical-answers": (
        "Identical answers",
        "Chosen and rejected are the same text, so there is nothing to prefer: the gradient is zero or noise.",
    ),
    "empty-answer": (
        "Empty answers",
        "An answer is empty or white space. Trained on, it teaches the model to stop at once or to fear stopping.",
    ),
    "not-text": (
        "Answers that are not text",
        "A prompt or an answer is a number, true, null or a list. Something went wrong where the file was written, and "
        "its neighbours may be wrong too.",
    ),
    "prompts-differ": (
        "Prompts differ",
        "The two conversations part before the assistant speaks (with --train-on last: before its last turn), so the "
        "answers belong to different prompts and cannot be compared.",
    ),
    "no-prompt": ("No prompt", "There is nothing that the answers answer."),
    "prompt-ends-with-assistant": (
        "Prompt ends with the assistant",
        "With --train-on last the prompt would end with an assistant's turn, and the answer be a second one in a row.",
    ),
    "prompt-ends-with-tool-calls": (
        "Prompt ends with tool calls",
        "The prompt ends with a turn of the assistant that has called its tools; nothing can be added to it.",
    ),
    "begun-turn-rewritten": (
        "Begun turn is rewritten",
        "The prompt begins a turn of the assistant, and the chat template renders it otherwise once the answer goes on "
        "with it, so the model would be trained in a place where it never writes.",
    ),
    "earlier-turns-rewritten": (
        "Earlier turns are rewritten",
        "An answer has several turns, and the chat template renders the earlier ones otherwise once more follow "
        "(reasoning is dropped, most often). --train-on last trains on the last turn only.",
    ),
    "answer-not-the-assistants": (
        "Answer is not the assistant's",
        "An answer must begin and end with a turn of the assistant; these are empty, or somebody else's.",
    ),
    "unknown-role": ("Unknown role", "A message has a role that no chat template knows."),
    "not-a-message": ("Not a message", "A conversation holds something that is no message."),
    "not-a-dialogue": ("Not a dialogue", "The text does not begin with a human's turn, so no prompt can be cut off."),
    "not-unicode": (
        "Broken characters",
        "The text holds half a character (a cut emoji, most often), which no tokenizer takes.",
    ),
    "template-refuses": (
        "Refused by the chat template",
        "The model's chat template does not take these conversations, most often for the order of their roles. Where "
        "it has no system turn, --fold-system puts that text in front of the first user's.",
    ),
    "text-lost": (
        "Text that the chat template loses",
        "Part of a prompt or of an answer is not in the tokens, so the model would be trained on another text. Name a "
        "template that keeps it with --chat-template.",
    ),
    "reasoning-lost": (
        "Reasoning that the chat template loses",
        "The answer's reasoning is not in its tokens. Name a template that keeps it, or say --reasoning keep or drop.",
    ),
    "answer-elsewhere": (
        "Answer where the model never writes",
        "The template's generation prompt is no beginning of the rendered answer, so what is trained on stands behind "
        "another text than what the model sees when it answers.",
    ),
    "rendered-already": (
        "Rendered already",
        "The text went through a chat template before: its prompt begins with a mark of one. chat=true would put it "
        "into a turn of another; leave it, or take the marks out.",
    ),
    "not-token-ids": ("Not token ids", "A column of token ids holds something else."),
}


def _unusable(name: str, title: str, why: str) -> Entry:
    does = "Training stops at such a row" if name in LOSSES else "Training leaves these rows out and says so"
    advice = f"{does}. Repair them at their source, or"
    return Entry(name, title, "rows", why, advice, error_above=0.0 if name in LOSSES else 0.05)


def _noted(name: str, title: str, why: str, advice: str) -> Entry:
    return Entry(name, title, "rows", why, advice, warning_above=NEVER, error_above=NEVER, droppable=False)


_ENTRIES = [
    *(_unusable(name, title, why) for name, (title, why) in _UNUSABLE.items()),
    _noted(
        "blank-row",
        "Blank rows",
        "A line of the file, or a row of a sheet, holds nothing. Something may have been there.",
        "Nothing, where the writer of the file put them there.",
    ),
    *(
        _noted(name, "No verdict", "Nobody has judged these, or for neither side: nothing is learned of them.", "None.")
        for name in ("no-label", "no-judgement")
    ),
    Entry(
        "exact-duplicates",
        "Exact duplicates",
        "rows that could be removed",
        "A row that stands in the file again counts twice in every loss, and if one copy is held out, the held-out "
        "accuracy measures memory.",
        "Keep the first of each. If several people judged, keep their votes instead: --merge-votes. Otherwise",
        error_above=0.2,
    ),
    Entry(
        "repeated-judgements",
        "Repeated judgements",
        "rows that agree with an earlier one",
        "The same answers to the same prompt were judged again and in the same way, by another judge, in another file, "
        "or in a file that is made of repeated judgements. That is agreement, not a copy: it says how sure a label is. "
        "As rows of their own these count several times, and a split of rows would put some on either side.",
        "Make one row with votes of each: --merge-votes (train, audit and convert take it; --use-votes says what the "
        "votes decide).",
        warning_above=NEVER,
        error_above=NEVER,
        droppable=False,
    ),
    Entry(
        "near-duplicates",
        "Near duplicates",
        "rows that could be removed",
        "Prompt and answers are each nearly those of an earlier row (letter case, punctuation and spaces aside, at "
        "least 80 % of the word pairs are common). They add little, and they leak across a split by prompt.",
        "Look at a few before you believe it: filled-in templates look alike.",
        warning_above=0.01,
        error_above=0.3,
    ),
    Entry(
        "contradictory-pairs",
        "Contradictory pairs",
        "distinct pairs of answers preferred both ways",
        "The same two answers to the same prompt are preferred both ways. No model can satisfy both rows; DPO's "
        "optimum for them is a tie, and each pass pulls to and fro.",
        "If several people judged, keep all votes: --merge-votes, then --use-votes soft. Or keep the majority "
        "(and nothing where both sides have the same number), or train with --method robust.",
    ),
    Entry(
        "contradictory-labels",
        "Contradictory labels",
        "distinct answers with both thumbs",
        "The same answer to the same prompt is called desirable and undesirable. KTO learns the majority's label and "
        "nothing from a tie.",
        "Keep the majority (and nothing where both have the same number).",
    ),
    Entry(
        "intransitive-cycles",
        "Intransitive cycles",
        "circles of answers that share no judgement",
        "Answers of one prompt beat each other in a circle, so no order of them agrees with every row: at least one "
        "judgement of each circle is wrong or has another reason than quality.",
        "Have the prompt judged again; nobody can tell which row is wrong.",
    ),
    Entry(
        "annotator-disagreement",
        "Annotators disagree",
        "pairs with votes for both answers",
        "Annotators who judged the same pair did not agree, so the labels are noisy: a model that fits them all fits "
        "noise.",
        "Train with --method robust --flip-probability RATE, or keep only the pairs with a clear majority.",
        warning_above=NEVER,
        error_above=NEVER,
    ),
    Entry(
        "undecided-pairs",
        "Undecided pairs",
        "pairs without a majority",
        "As many judgements prefer the one answer as the other, so neither is chosen. A majority leaves them out; only "
        "soft labels learn from them, namely that both answers are as good.",
        "Train with --use-votes soft, or leave them out.",
        warning_above=NEVER,
        error_above=NEVER,
    ),
    Entry(
        "noise-ceiling",
        "Noise ceiling",
        "labels expected to be wrong",
        "Judgements that contradict each other bound what can be learned: an accuracy above the ceiling means that the "
        "model has seen the answers. Judge a held-out accuracy against it, not against 100 %.",
        "Nothing to mend; more votes on each pair raise it.",
        warning_above=NEVER,
        error_above=NEVER,
        droppable=False,
    ),
    Entry(
        "length-bias",
        "Length bias",
        "pairs (labels: rows) that the length rule is right about",
        "A rule that looks at nothing but length already guesses the preferences, and a model finds that rule first: "
        "it learns to write long (or short), not well.",
        "Use a method that divides by length (--method simpo or sigmoid_norm, ipo with --length-normalize), balance "
        "the lengths, and compare the length of the trained model's answers with the start's.",
        droppable=False,
    ),
    Entry(
        "surface-bias",
        "Surface bias",
        "held-out pairs (labels: rows) that words alone get right",
        "A bag of words tells chosen from rejected on prompts that it has not seen: a stock phrase, a language, a "
        "format or the style of one model. A policy learns this shortcut and not what was meant.",
        "Look at the telling words (--show), take stock phrases out, or take both answers from the same model.",
        droppable=False,
    ),
    Entry(
        "label-balance",
        "Label balance",
        "rows with the rarer label",
        "One thumb is much rarer than the other, so its gradient is drowned out; with one label alone there is nothing "
        "to compare.",
        "Weigh the sides so that weight times rows of the desirable ones is 1 to 3/2 of the others'.",
        droppable=False,
    ),
    Entry(
        "eval-overlap",
        "Overlap with the evaluation file",
        "training rows whose prompt is also in the evaluation file",
        "Held-out accuracy on prompts that were trained on measures memory.",
        "Take them out of the training file.",
        error_above=0.0,
    ),
    Entry(
        "over-max-length",
        "Over the maximum length",
        "rows",
        "Prompt and longest answer together have more tokens than the limit. By default such rows are left out.",
        "Raise --max-length, choose --truncation cut-prompt-left, or leave them out:",
        warning_above=0.01,
        error_above=0.2,
    ),
    Entry(
        "distinguishing-part-cut",
        "The difference lies beyond the cut",
        "pairs",
        "Up to the limit the two answers are the same: cut on the right, the pair would compare a text with itself.",
        "Raise --max-length or choose --truncation cut-prompt-left.",
    ),
    Entry(
        "missing-eos",
        "No end-of-sequence token",
        "rows",
        "An answer has no end-of-sequence token after tokenization, so the model would not learn to stop.",
        "Mend the chat template, or the token ids that the file brings.",
        error_above=0.01,
    ),
    Entry(
        "token-without-row",
        "Tokens that the model does not know",
        "rows",
        "The tokenizer reads a token in these texts that the model's embedding has no row for; training and scoring "
        "stop at such a row.",
        "Take it out of the text, or resize, train and save the model first.",
        error_above=0.0,
    ),
    Entry(
        "chat-markup",
        "Chat markup inside texts",
        "rows",
        "A text spells what chat templates write around turns. Where the tokenizer has such a token, the model sees a "
        "turn begin or end inside the text (which somebody else's text can be made for); where it has none, it learns "
        "to write the letters. Texts that went through a template already would go through it twice as messages.",
        "Give conversations as messages, without their markup; take it out of what users wrote. Plain text whose "
        "markup is this model's own may stay as it is.",
        error_above=NEVER,
    ),
    Entry(
        "garbled-text",
        "Garbled text",
        "rows",
        "A text holds HTML entities (&amp;), UTF-8 that was read as another encoding (â€™ for an apostrophe), or the "
        "mark of a lost character. The model learns to write these letters, and reads others' prompts without them.",
        "Write the file anew as UTF-8 and without entities (in Python html.unescape(text), and for text that was read "
        "as Windows-1252 text.encode('cp1252').decode('utf-8')). Text about HTML may hold entities of its own.",
        warning_above=0.01,
        error_above=NEVER,
    ),
    Entry(
        "unnamed-end",
        "Ends with a token that nothing names as an end",
        "rows",
        "The chat template ends an answer with a token that neither the tokenizer (eos_token) nor the model's "
        "generation_config.json or config.json (eos_token_id) names. The model learns to write it, but what samples "
        "from the model does not stop there.",
        "Add the token's id to eos_token_id in the model's generation_config.json; the rows are as they should be.",
        error_above=NEVER,
        droppable=False,
    ),
    Entry(
        "past-chat-template",
        "Text past the chat template",
        "rows",
        "The model has a chat template and the rows are text, so it is trained outside the turns that it was tuned on, "
        "and is asked in turns afterwards.",
        "--columns chat=true makes a user's turn of each prompt and the assistant's of its answers. Nothing, where the "
        "model shall go on with texts.",
        error_above=NEVER,
        droppable=False,
    ),
    Entry(
        "not-printed",
        "Not printed by the chat template",
        "rows",
        "Messages hold something (a name, a tool call, the reasoning of earlier turns) that the template leaves out, "
        "so the model does not see it.",
        "Nothing, where that is meant; else name a template that prints it with --chat-template.",
        error_above=NEVER,
        droppable=False,
    ),
    Entry(
        "boundary-merges",
        "Tokens merge at the boundary",
        "rows",
        "The prompt alone is tokenized otherwise than with the answer behind it. The answer is taken to begin where "
        "the two part, so a bit of the prompt is trained on.",
        "End plain-text prompts with a newline, or begin answers with the space; conversations do not have this.",
        warning_above=0.2,
        error_above=NEVER,
        droppable=False,
    ),
    Entry(
        "no-tokens",
        "Nothing left after tokenization",
        "rows",
        "A prompt or an answer has no tokens, or both answers have the same ones.",
        "Training leaves them out.",
    ),
    Entry(
        "reference-impossible",
        "Impossible for the reference",
        "pairs of the sample",
        "The reference finds the rejected answer likelier by so much (more than 5 / beta nats at beta 0.1) that DPO's "
        "gradient on the pair falls below 1 % before the ranking turns. They seldom flip, and pull hard all the while.",
        "Look whether the labels are right; a supervised warm-up on the chosen answers brings them within reach.",
        warning_above=0.25,
        error_above=NEVER,
        droppable=False,
    ),
    Entry(
        "reference-certain",
        "Certain for the reference",
        "pairs of the sample",
        "The reference already finds the chosen answer likelier by more than 5 / beta nats at beta 0.1. Training has "
        "little to add to their ranking.",
        "Nothing to mend. If most pairs are of this kind, the set is easier than the task.",
        warning_above=NEVER,
        error_above=NEVER,
        droppable=False,
    ),
]

CATALOGUE = {entry.name: entry for entry in _ENTRIES}


def entry_of(name: str) -> Entry:
    """The entry of a finding; for a reason that a data format brings of its own, one made from its name."""
    words = name.replace("-", " ")
    return CATALOGUE.get(name) or _unusable(name, words.capitalize(), f"The rows cannot be trained on: {words}.")
