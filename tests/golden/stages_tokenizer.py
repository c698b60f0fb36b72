"""A small SentencePiece tokenizer and what the pipeline makes of difficult prompts."""

import base64
import html
import io
import json

import ftfy
import numpy as np
import regex
import sentencepiece
from transformers import AutoTokenizer

from common import save_json

VOCABULARY = 512
SPECIALS = ["<pad>", "</s>", "<s>", "<unk>"]

# The default negative prompt of the original Wan repository.
WAN_NEGATIVE = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，"
    "多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)

PROMPTS = [
    "", " ", "\n\t ", "a", "A red ball.", "a large red ball bouncing over a checkered floor",
    "  two   spaces,\tone tab\nand a newline  ", "ends with space ", "UPPER lower MiXeD", "comma,no space;semi:colon",
    "numbers 0 1 23 456 7890 3.14 1,000 50%", "hyphen-ated well-known e-mail", "under_score and #hash @at $5 &c",
    "it's a dog's life", "it\u2019s a dog\u2019s life", "\u201ccurly\u201d and \u2018single\u2019 quotes", "\u201eGerman\u201c quotes",
    "\u00abguillemets\u00bb", "low \u201a quote \u201b and \u2033 prime \u2032", "ellipsis\u2026 and three dots...",
    "dash \u2013 en, \u2014 em, \u2212 minus", "\uff26\uff55\uff4c\uff4c\uff0d\uff57\uff49\uff44\uff54\uff48 \uff54\uff45\uff58\uff54\uff01",
    "\u3000ideographic\u3000space\u3000", "half width \uff76\uff80\uff76\uff85", "no\u00a0break\u00a0space", "zero\u200bwidth\u200bspace",
    "\ufeffbyte order mark", "soft\u00adhyphen", "line\u2028separator\u2029end", "next\u0085line", "vertical\u000btab\u000cform",
    "control\u0001\u0007\u001b[31mcolour\u001b[0m", "ligatures: \ufb01sh, \ufb02ower, o\ufb03ce", "caf\u00e9 na\u00efve \u00fcber stra\u00dfe \u00c5ngstr\u00f6m",
    "cafe\u0301 decomposed u\u0308", "\u0041\u030a ring", "\u00c3\u00a9t\u00c3\u00a9 \u00c3\u00bc mojibake", "it\u00e2\u20ac\u2122s mojibake",
    "\u00e2\u20ac\u0153quoted\u00e2\u20ac\u009d", "na\u00c3\u00afve caf\u00c3\u00a9", "\u00e6\u00b5\u201d", "doubly \u00c3\u0192\u00c2\u00a9", "Tom &amp; Jerry",
    "Tom &amp;amp; Jerry", "&lt;b&gt;bold&lt;/b&gt;", "&quot;quoted&quot; &#39;s &#x27;t", "&eacute;t&eacute; &copy; &euro;", "a &nbsp; b",
    "broken &entity; & amp; &#; &#xZZ; &amp", "emoji \U0001f600 \U0001f408\u200d\u2b1b \U0001f1e9\U0001f1ea \u2764\ufe0f", "\u4e00\u53ea\u7ea2\u8272\u7684\u7403\u5728\u8349\u5730\u4e0a",
    "mixed \u4e2d\u6587 and English\uff0cwith\u3001marks\u3002", WAN_NEGATIVE, "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0", "\ud55c\uad6d\uc5b4", "\u041a\u043e\u0448\u043a\u0430",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629", "\u0e44\u0e17\u0e22", "x\u00b2 + y\u2082 = \u00bd \u2160 \u2122 \u2460", "\u2581underline\u2581marks", "</s> <pad> <unk> <s> <extra_id_0>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "\u00df\u017f\u0130\u0131", "tilde ~ \u223c \u301c \uff5e",
    "a large red ball " * 150, "\u7ea2\u8272\u7684\u7403" * 300,
]


def corpus():
    """A few hundred sentences from a fixed grammar, with accents and Chinese."""
    random = np.random.Generator(np.random.PCG64(7))
    pick = lambda words: words[int(random.integers(len(words)))]
    sizes = "small large tiny huge big little".split()
    colours = "red green blue yellow orange purple white black crème".split()
    things = "ball cube cat dog bird car house tree river mountain café piñata fjörd naïve über girl boy kitchen".split()
    verbs = "moves runs jumps bounces rolls walks turns falls stands sings".split()
    places = "over under behind near beside across around through".split()
    floors = "checkered floor|green field|wooden table|empty street|quiet lake|déjà vu|night sky".split("|")
    tails = ", slowly|, quickly.|; it's 4 p.m.|, with light & shadow!|?| - 8K (high quality)| \"close up\"|: frame 23 of 81".split("|")
    nouns = "一只红色的球|两只小猫|画面|背景|整体|静止的手指|一个人|山水画|低质量|细节".split("|")
    acts = "在草地上走|很多，不好|模糊不清|在静态的画面|作品风格|过曝，字幕".split("|")
    syllables = "ba co di fe gu ha li mo nu pa qui ro sta thu ve wi xa yo zé che bri ing ed ness tion ly".split()
    invented = ["".join(pick(syllables) for _ in range(2 + i % 3)) for i in range(400)]
    defects = WAN_NEGATIVE.split("，")
    lines = []
    for i in range(600):
        lines.append(f"The {pick(invented)} {pick(verbs)} {pick(places)} {pick(invented)} {pick(invented)} {i % 31}{pick(tails)}")
        lines.append(f"{pick(defects)}，{pick(nouns)}")
    for _ in range(240):
        lines.append(f"A {pick(sizes)} {pick(colours)} {pick(things)} {pick(verbs)} {pick(places)} the {pick(floors)}{pick(tails)}")
    for _ in range(120):
        lines.append(f"{pick(nouns)}{pick(acts)}，{pick(nouns)}。")
    return lines


def charsmap(model):
    """normalizer_spec (field 3) .precompiled_charsmap (field 2) of a serialised ModelProto."""

    def fields(data):
        position = 0

        def varint():
            nonlocal position
            value = shift = 0
            while True:
                byte = data[position]
                position += 1
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    return value

        while position < len(data):
            tag = varint()
            if tag & 7 == 0:
                yield tag >> 3, varint()
                continue
            size = {1: 8, 5: 4}[tag & 7] if tag & 7 in (1, 5) else varint()
            yield tag >> 3, data[position : position + size]
            position += size

    spec = next(value for field, value in fields(model) if field == 3)
    return next(value for field, value in fields(spec) if field == 2)


def make_tokenizer(path):
    """spiece.model, and the tokenizer.json that says the same to the tokenizers library."""
    path.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=model, model_type="unigram", vocab_size=VOCABULARY,
        character_coverage=1.0, byte_fallback=False, normalization_rule_name="nmt_nfkc", num_threads=1, pad_id=0,
        eos_id=1, bos_id=2, unk_id=3, hard_vocab_limit=True, minloglevel=2,
    )
    model = model.getvalue()
    (path / "spiece.model").write_bytes(model)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    eos = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    save_json(
        path / "tokenizer.json",
        {
            "version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [
                {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
                 "normalized": False, "special": True} for i, token in enumerate(SPECIALS)
            ],
            "normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap(model)).decode()},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
            "post_processor": {
                "type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}, eos],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, eos, {"Sequence": {"id": "B", "type_id": 0}}, eos],
                "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
            },
            "decoder": metaspace,
            "model": {
                "type": "Unigram", "unk_id": 3, "byte_fallback": False,
                "vocab": [[pieces.id_to_piece(i), pieces.get_score(i)] for i in range(pieces.get_piece_size())],
            },
        },
    )
    save_json(
        path / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, "pad_token": "<pad>",
            "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>", "clean_up_tokenization_spaces": False,
        },
    )


def clean(text, fix):
    """WanPipeline's prompt_clean, with and without ftfy installed."""
    if fix:
        text = ftfy.fix_text(text)
    text = html.unescape(html.unescape(text)).strip()
    return regex.sub(r"\s+", " ", text).strip()


def encode(tokenizer, text):
    out = tokenizer([text], padding="max_length", max_length=512, truncation=True, add_special_tokens=True)
    return out.input_ids[0][: sum(out.attention_mask[0])]


def make(path, out):
    tokenizer = AutoTokenizer.from_pretrained(path)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path / "spiece.model"))
    cases = []
    for prompt in PROMPTS:
        case = {"prompt": prompt, "clean": clean(prompt, False), "clean_ftfy": clean(prompt, True)}
        for key in ("", "_ftfy"):
            case["ids" + key] = encode(tokenizer, case["clean" + key])
            plain = (pieces.encode(case["clean" + key])[:511]) + [1]
            if plain != case["ids" + key]:
                assert "</s>" in prompt, f"{prompt!r}: SentencePiece and tokenizers differ"
                case["ids_sentencepiece"] = plain
        cases.append(case)
    lines = ",\n".join(json.dumps(case, ensure_ascii=True) for case in cases)
    target = out / "tokenizer" / "prompts.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f"[\n{lines}\n]\n")
    print(f"  {len(cases)} prompts, {sum(c['clean'] != c['clean_ftfy'] for c in cases)} changed by ftfy")
