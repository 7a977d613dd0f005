"""Labels: generation can write them, the untouched model expects them, and prompts have the model's own tokens."""

import csv
import json
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, WhisperProcessor
from transformers.models.whisper.tokenization_whisper import LANGUAGES
from true_whisper import true_model, true_speech

from harness.catalog import DEMO_MODEL
from harness.data.audio import decode
from harness.data.labels import label_ids, prompt_ids, repair_merges, suppressed_first
from harness.errors import UserError
from harness.model.base import load_processor
from harness.spec.messages import Open
from harness.spec.task import Task
from harness.training.orders import prepare_only

# A text in each language: its own name of itself, or a greeting.
TEXTS = {
    "en": "the weather is fine", "zh": "今天天气很好", "de": "Guten Tag", "es": "¿Qué tal?", "ru": "Привет",
    "ko": "안녕하세요", "fr": "À bientôt", "ja": "私は学生です", "pt": "Português", "tr": "İyi günler", "pl": "Język polski",
    "ca": "Català", "nl": "'s Avonds", "ar": "العربية", "sv": "Är du där", "it": "È vero", "id": "Bahasa Indonesia",
    "hi": "हिन्दी", "fi": "Suomi", "vi": "Tiếng Việt", "he": "עברית", "uk": "Українська", "el": "Ελληνικά",
    "ms": "Bahasa Melayu", "cs": "Čeština", "ro": "Română", "da": "Æbler", "hu": "Magyar", "ta": "தமிழ்", "no": "Øl",
    "th": "สวัสดีครับ", "ur": "اردو", "hr": "Hrvatski", "bg": "Български", "lt": "Lietuvių", "la": "Latina", "mi": "Māori",
    "ml": "ഞാൻ വീട്ടിൽ", "cy": "Cymraeg", "sk": "Slovenčina", "te": "నేను బాగున్నాను", "fa": "فارسی", "lv": "Latviešu",
    "bn": "আমি ভাত খাই", "sr": "Српски", "az": "Azərbaycan", "sl": "Slovenščina", "kn": "ನಾನು", "et": "Eesti",
    "mk": "Македонски", "br": "Brezhoneg", "eu": "Euskara", "is": "Íslenska", "hy": "Բարեւ ձեզ", "ne": "नेपाली",
    "mn": "Монгол", "bs": "Bosanski", "kk": "Қазақ", "sq": "Shqip", "sw": "Kiswahili", "gl": "Galego", "mr": "मराठी",
    "pa": "ਮੈਂ ਘਰ ਹਾਂ", "si": "සිංහල", "km": "ខ្មែរ", "sn": "Shona", "yo": "Yorùbá", "so": "Soomaali", "af": "Afrikaans",
    "oc": "Occitan", "ka": "ქართული", "be": "Беларуская", "tg": "Тоҷикӣ", "sd": "سنڌي", "gu": "હું ઘરે છું", "am": "አማርኛ",
    "yi": "ייִדיש", "lo": "ສະບາຍດີ", "uz": "Oʻzbek", "fo": "Føroyskt", "ht": "Kreyòl", "ps": "پښتو", "tk": "Türkmen",
    "nn": "Nynorsk", "mt": "Malti", "sa": "संस्कृतम्", "lb": "Lëtzebuergesch", "my": "မြန်မာ", "bo": "བོད་སྐད", "tl": "Tagalog",
    "mg": "Malagasy", "as": "অসমীয়া", "tt": "Татар", "haw": "ʻŌlelo", "ln": "Lingála", "ha": "Hausa", "ba": "Башҡорт",
    "jw": "Basa Jawa", "su": "Basa Sunda", "yue": "今日天氣好",
}  # fmt: skip
MARKED = ['"Hello," he said', "(laughs) yes", "- and then", "「はい」", "[noise] what", "♪ la la", "#1 is best"]


@pytest.fixture(scope="module")
def openai():
    """Whisper's vocabulary and the tokens that its own decoder suppresses, as openai-whisper has them."""
    package = pytest.importorskip("whisper.tokenizer")
    theirs = package.get_tokenizer(True, num_languages=100, language="en", task="transcribe")

    def tokenizer(text, add_special_tokens):
        assert not add_special_tokens
        return SimpleNamespace(input_ids=theirs.encoding.encode(text))

    tokenizer.eos_token_id = theirs.eot
    generation = GenerationConfig(
        suppress_tokens=sorted(theirs.non_speech_tokens),
        begin_suppress_tokens=[*theirs.encoding.encode(" "), theirs.eot],
        decoder_start_token_id=theirs.sot,
        no_timestamps_token_id=theirs.no_timestamps,
        lang_to_id={f"<|{code}|>": theirs.to_language_token(code) for code in theirs.all_language_codes},
        task_to_id={"transcribe": theirs.transcribe, "translate": theirs.translate},
    )
    return SimpleNamespace(tokenizer=tokenizer, generation=generation, theirs=theirs)


def test_no_label_begins_with_a_token_that_generation_suppresses(openai):
    assert set(TEXTS) == set(LANGUAGES)
    cases = [*TEXTS.items(), *(("ja" if text[0] == "「" else "en", text) for text in MARKED)]
    for language, text in cases:
        for spaced in (True, False):
            ids = label_ids(openai.tokenizer, openai.generation, text, language, "transcribe", spaced)
            assert ids[4] not in suppressed_first(openai.generation), (language, text)
            written = openai.theirs.decode(ids[4:-1]).strip()
            assert text.endswith(written) and (text in MARKED or written == text), "and the text is whole"


def test_a_space_comes_first_where_whisper_writes_one(openai):
    def begin(text, language, spaced=True):
        ids = label_ids(openai.tokenizer, openai.generation, text, language, "transcribe", spaced)
        return openai.theirs.decode(ids[4:5])

    assert begin("Hello", "en") == " Hello" and begin("the", "en") == " the" and begin("안녕", "ko").startswith(" ")
    assert begin("今天", "zh") == "今天" and begin("OK", "zh") == "OK" and begin("こんにちは", "ja") == "こんにちは"
    assert begin("Hello", "en", spaced=False) == "Hello"
    assert begin('"Hello"', "en") == " Hello" and begin("'s Avonds", "nl") == "'s"


def test_prompts_have_the_models_own_language_tokens(openai):
    assert prompt_ids(openai.generation, "yue", "translate") == [50258, 50358, 50359, 50364]
    del openai.generation.lang_to_id["<|yue|>"]
    with pytest.raises(UserError, match="no token for language 'yue'"):
        prompt_ids(openai.generation, "yue", "transcribe")


def test_a_language_that_the_model_lacks_is_refused_before_preparation_or_has_a_proxy(speech_folder, tmp_path):
    def prepare(**fields):
        progress, task = [], Task(name="cantonese", folder=speech_folder, language="yue", **fields)
        order = Open(model="demo", task=task, cache_dir=str(tmp_path / "cache"), seed=1)
        try:
            return prepare_only(order, progress.append)
        except UserError:
            assert progress == [] and not list((tmp_path / "cache").glob("features/*/*"))
            raise

    for fields in ({}, {"proxy_language": "yue"}):
        with pytest.raises(UserError, match=r"(?s)no token for language 'yue'.*proxy_language: CODE"):
            prepare(**fields)
    speech = prepare(proxy_language="zh")
    assert {(u.language, u.spoken) for u in speech.utterances} == {("zh", "yue")}
    assert speech.report["languages"] == ["yue"] and speech.report["proxy_languages"] == {"yue": "zh"}


def test_english_only_models_have_no_language_and_task_tokens():
    generation = GenerationConfig(is_multilingual=False, decoder_start_token_id=50257, no_timestamps_token_id=50362)
    assert prompt_ids(generation, "en", "transcribe") == [50257, 50362]
    for language, task in (("de", "transcribe"), ("en", "translate")):
        with pytest.raises(UserError, match="English only"):
            prompt_ids(generation, language, task)


def test_a_tokenizer_without_its_first_merge_is_repaired():
    expected = load_processor(str(DEMO_MODEL)).tokenizer.tokenize("turn on the light")
    tokenizer = WhisperProcessor.from_pretrained(DEMO_MODEL).tokenizer
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["merges"] = [pair for pair in state["model"]["merges"] if pair != ["Ġ", "t"]]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    assert tokenizer.tokenize("turn on the light") != expected
    repair_merges(tokenizer)
    assert tokenizer.tokenize("turn on the light") == expected


@pytest.mark.parametrize("name", ["demo", "whisper-base", "whisper-tiny.en"])
def test_control_tokens_in_a_transcript_are_text(name):
    folder = DEMO_MODEL if name == "demo" else true_model(name)
    tokenizer, generation = load_processor(str(folder)).tokenizer, GenerationConfig.from_pretrained(folder)
    tokenizer.add_tokens(["<|0.00|>", "gherkin"])  # the hub's tokenizers have the timestamps
    first_control = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    for text in ("one <|endoftext|> two", "oh <|en|> hello", "a<|0.00|>", "a <|nospeech|>"):
        ids = label_ids(tokenizer, generation, text, "en", "transcribe")
        written = ids[len(prompt_ids(generation, "en", "transcribe")) : -1]
        assert all(token < first_control for token in written), text
        assert tokenizer.backend_tokenizer.decode(written).strip() == text
    plain = label_ids(tokenizer, generation, "a gherkin", "en", "transcribe")
    assert tokenizer.convert_tokens_to_ids("gherkin") in plain, "tokens that a user added stay tokens"


@pytest.mark.parametrize(
    ("language", "folder"),
    [("zh", "audio_cmn_zh_words"), ("nl", "flemishguy_nl"), ("en", "ljspeech_mp3_sample"), ("ja", None), ("th", None)],
)
def test_the_untouched_model_has_the_lower_loss_with_our_labels(language, folder, whisper_base):
    """Japanese and Thai without speech: the language model alone prefers the form that Whisper writes."""
    texts, clips = _samples(language, folder)
    processor, model = whisper_base
    tokenizer, generation = processor.tokenizer, model.generation_config
    mel = processor.feature_extractor(clips, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.inference_mode():
        states = model.model.encoder(mel).last_hidden_state
        ours, other = 0.0, 0.0
        for index, text in enumerate(texts):
            ids = label_ids(tokenizer, generation, text, language, "transcribe")
            spaced = tokenizer.decode(ids[4:5]).startswith(" ")
            changed = tokenizer(text if spaced else f" {text}", add_special_tokens=False).input_ids
            ours += _loss(model, states[index : index + 1], ids)
            other += _loss(model, states[index : index + 1], [*ids[:4], *changed, ids[-1]])
    assert ours < other - 2 * len(texts), (ours / len(texts), other / len(texts))


@pytest.fixture(scope="module")
def whisper_base():
    from transformers import WhisperForConditionalGeneration

    folder = true_model("whisper-base")
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return load_processor(str(folder)), model


def _samples(language, folder):
    if folder is None:
        import numpy as np

        texts = {"ja": ["こんにちは。", "私は学生です。"], "th": ["สวัสดีครับ", "วันนี้อากาศดีมาก"]}[language]
        return texts, [np.zeros(16_000, np.float32)] * len(texts)
    place = true_speech(folder)
    with (place / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:3]
    return [row["text"] for row in rows], [decode(place / row["file"]) for row in rows]


def _loss(model, states, ids):
    tokens = torch.tensor([ids])
    logits = model(encoder_outputs=(states,), decoder_input_ids=tokens[:, :-1]).logits[0, 3:]
    return float(torch.nn.functional.cross_entropy(logits, tokens[0, 4:], reduction="sum"))
