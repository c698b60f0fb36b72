"""Tokenizer and text encoder: a SentencePiece unigram model of the grammar and a two-layer UMT5."""

import json
import pathlib
import tempfile

import sentencepiece
import torch
from transformers import UMT5Config, UMT5EncoderModel

import grammar

VOCABULARY = 256
MAX_TOKENS = 32  # more than any prompt of the grammar has, with its eos and a row of padding; aligned for CUDA's kernels
CONTEXT = 512  # rows the pipeline pads to, with zeros

CONFIG = dict(
    vocab_size=VOCABULARY,
    d_model=128,
    d_kv=64,
    d_ff=256,
    num_layers=2,
    num_decoder_layers=0,
    num_heads=2,
    relative_attention_num_buckets=32,
    relative_attention_max_distance=128,
    dropout_rate=0.0,
    layer_norm_epsilon=1e-6,
    feed_forward_proj="gated-gelu",
    is_encoder_decoder=False,
    tie_word_embeddings=True,
    pad_token_id=0,
    eos_token_id=1,
)


def build_encoder(seed=0):
    """A fresh UMT5EncoderModel; embeddings small enough for the unscaled dot products."""
    torch.manual_seed(seed + 1)
    model = UMT5EncoderModel(UMT5Config(**CONFIG)).eval()
    with torch.no_grad():
        model.shared.weight.normal_(std=0.5)
        for name, p in model.named_parameters():
            if ".SelfAttention.q." in name:
                p.normal_(std=0.02)
    return model


def train_tokenizer(folder):
    """Write spiece.model (pad 0, eos 1, bos 2, unk 3; case folded) trained on sentences of the grammar."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(1)
    lines = grammar.sentences(grammar.sample(20000, generator, "all"))
    lines += [word for word in grammar.words() for _ in range(200)]
    printable = "".join(chr(c) for c in range(33, 127) if not chr(c).isupper())
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as corpus:
        corpus.write("\n".join(lines))
        corpus.flush()
        sentencepiece.SentencePieceTrainer.train(
            input=corpus.name, model_prefix=str(folder / "spiece"), model_type="unigram", vocab_size=VOCABULARY,
            pad_id=0, eos_id=1, bos_id=2, unk_id=3, normalization_rule_name="nmt_nfkc_cf", required_chars=printable,
            hard_vocab_limit=False, num_threads=1, minloglevel=2, shuffle_input_sentence=False,
        )
    (folder / "spiece.vocab").unlink()


def write_tokenizer_json(folder):
    """tokenizer.json and its configuration, from spiece.model, as transformers loads them."""
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    folder = pathlib.Path(folder)
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString((folder / "spiece.model").read_bytes())
    vocabulary = [(piece.piece, piece.score) for piece in proto.pieces]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
        normalizers.Replace(Regex(" {2,}"), " "),
    ])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(),
        pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True),
    ])
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<s>", "<unk>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = dict(pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>")
    config = dict(tokenizer_class="PreTrainedTokenizerFast", model_max_length=CONTEXT, padding_side="right",
                  clean_up_tokenization_spaces=False, model_input_names=["input_ids", "attention_mask"], **special)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


class Prompts:
    """Token ids of prompts, as the pipeline's tokenizer gives them."""

    def __init__(self, folder):
        self.model = sentencepiece.SentencePieceProcessor(model_file=str(pathlib.Path(folder) / "spiece.model"))

    def __call__(self, prompts):
        """-> ids [B, MAX_TOKENS] (0 past the prompt), mask [B, MAX_TOKENS] (1 for the prompt and its eos)."""
        ids = torch.zeros(len(prompts), MAX_TOKENS, dtype=torch.long)
        for row, pieces in enumerate(self.model.encode(prompts)):
            if len(pieces) + 1 >= MAX_TOKENS:
                raise ValueError(f"prompt of {len(pieces)} tokens: {prompts[row]!r}")
            ids[row, : len(pieces) + 1] = torch.tensor(pieces + [1])
        return ids, (ids != 0).long()


def embed(encoder, ids, mask):
    """-> context [B, MAX_TOKENS, d_model], zero past the prompt, as the pipeline feeds the transformer."""
    return encoder(ids, mask).last_hidden_state * mask[..., None]
