"""The page: complete, self-contained, and safe whatever the data holds."""

import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser

import pytest

from erel_jax.benchmark.report import GalleryQuery, GalleryResult, render_html
from erel_jax.benchmark.report.columns import COLUMNS
from erel_jax.benchmark.report.html import heading, unavailable_reasons
from erel_jax.benchmark.summary import summarize

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects elements and text, and checks that every element is closed."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    def attributes(self, name):
        return [attrs[name] for _, attrs in self.elements if name in attrs]

    @property
    def text(self):
        return " ".join(self.texts)


@pytest.fixture
def page(records, galleries):
    return render_html(summarize(records), galleries)


def test_the_page_is_one_file_that_loads_nothing(page):
    parsed = Page(page)
    tags = {tag for tag, _ in parsed.elements}
    assert not tags & {"link", "iframe", "object", "embed", "base", "form", "audio", "video", "image", "use"}
    assert all(source.startswith("data:image/png;base64,") for source in parsed.attributes("src"))
    assert all(target.startswith("#") for target in parsed.attributes("href"))
    assert not re.search(r"https?://|@import|url\(", page)
    policy = next(attrs["content"] for _, attrs in parsed.elements if "Content-Security-Policy" in attrs.values())
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_script_matches_its_hash(page):
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in page or f"script-src 'sha256-{digest}'" in page


def test_links_inside_the_page_have_targets(page):
    parsed = Page(page)
    assert {target[1:] for target in parsed.attributes("href")} <= set(parsed.attributes("id"))


def test_every_method_number_and_term_is_there(page, records):
    parsed = Page(page)
    summary = summarize(records)
    for method in (*summary.learned, *summary.floors):
        assert method.method in parsed.texts
        for column in COLUMNS[2:]:
            assert column.text(method) in parsed.texts
    for column in COLUMNS:
        assert column.definition in parsed.texts and column.caution in parsed.texts
    needed = ["made-up processor", "0123abc", "no energy counter", "characters without a name", records[0].command]
    assert [text for text in needed if text not in parsed.text] == []
    assert summary.tpme_set is not None and summary.tpme_set in parsed.text
    assert page.count('<svg class="plot"') == 5
    assert parsed.attributes("viewbox").count("0 0 400 320") == 5


def test_raw_numbers_are_exact(page, records):
    parsed = Page(page)
    for record in summarize(records).records:
        if record.trainable_parameters:
            assert f"{record.trainable_parameters:,}" in parsed.texts
        assert f"{record.metrics['recall@10']:.6g}" in parsed.texts


def test_phone_dark_mode_and_print_are_cared_for(page):
    parsed = Page(page)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [a for _, a in parsed.elements]
    for rule in ("@media print", "prefers-color-scheme: dark", "overflow-x: auto", "max-width: 640px"):
        assert rule in page
    regions = [attrs for tag, attrs in parsed.elements if attrs.get("class") == "scroll"]
    tables = [tag for tag, _ in parsed.elements if tag == "table"]
    assert len(regions) == len(tables)


EVIL = "<script>alert('xss')</script><img src=x onerror=alert(1)>\"'&{{ 7*7 }}\x00\u202e"


def test_nothing_in_the_data_becomes_markup(records):
    evil = [
        dataclasses.replace(
            record,
            method=f"{record.method}{EVIL}",
            data=EVIL,
            command=EVIL,
            metrics={f"recall@10{EVIL}": 0.5},
            environment={**record.environment, EVIL: EVIL},
            unavailable={key: EVIL for key in record.unavailable if key == "energy_joules" or record.kind == "floor"},
            notes=(EVIL,),
            dropped={EVIL: 3},
            peak_bytes_source=EVIL,
        )
        for record in records
    ]
    gallery = {f"lora_r8{EVIL}": [GalleryQuery(EVIL, None, [GalleryResult(EVIL, None, 0.5, True)])]}
    page = render_html(summarize(evil), gallery)
    parsed = Page(page)
    assert sum(tag == "script" for tag, _ in parsed.elements) == 1
    assert not [tag for tag, _ in parsed.elements if tag == "img"]
    assert not any(name.startswith("on") for _, attrs in parsed.elements for name in attrs)
    assert "<img src=x" not in page and "alert('xss')</script>" not in page
    assert "{{ 7*7 }}" in parsed.text
    gallery_text = page[page.index('<div class="query') : page.index("</details>")]
    assert "\x00" not in gallery_text and "\u202e" not in gallery_text


def test_gallery_shows_pictures_texts_scores_and_marks(page, galleries):
    parsed = Page(page)
    # Three results with pictures for two methods, and one query picture.
    assert len(parsed.attributes("src")) == 7
    text = parsed.text
    for part in ("GREEK SMALL LETTER BETA", "item 1", "0.800", "✓", "gloves", "\u22120.500"):
        assert part in text
    order = [re.search(rf"<summary>{name}", page) for name in ("lora_r8", "bitfit", "name_tfidf")]
    assert all(order)
    starts = [match.start() for match in order if match]
    assert starts == sorted(starts)


def test_a_long_gallery_is_cut_and_says_so(records, galleries):
    result = galleries["lora_r8"][0].results[0]
    many = {"lora_r8": [GalleryQuery(f"query {i}", None, [result] * 12) for i in range(20)]}
    page = render_html(summarize(records), many)
    assert page.count('<div class="query') == 8 and page.count("data:image/png") == 80
    assert "At most 8 queries and 10 results are shown." in page
    assert "At most" not in render_html(summarize(records), galleries)


def test_headings(records):
    summary = summarize(records)
    assert heading(summary) == "8 of 12 learned methods beat the best floor"
    assert heading(summarize(records[3:])) == "12 methods, no floor to measure them against"
    floors, by_name = records[:3], {r.method: r for r in records[3:]}
    assert heading(summarize([*floors, by_name["linear_probe"]])) == "No learned method beats the best floor"
    assert heading(summarize([*floors, by_name["lora_r8"]])) == "Every learned method beats the best floor"
    one = [*floors, by_name["lora_r8"], by_name["linear_probe"]]
    assert heading(summarize(one)) == "1 of 2 learned methods beats the best floor"


def test_floors_alone_and_one_method_alone_make_a_page(records):
    floors = Page(render_html(summarize(records[:3])))
    assert "name_tfidf" in floors.texts and "Training step time" not in floors.texts
    alone = Page(render_html(summarize(records[-1:])))
    assert "head_only" in alone.texts and "Training step time" in alone.texts


def test_reasons_are_grouped(records):
    entries = unavailable_reasons(summarize(records))
    assert {"fields": "energy_joules", "reason": "no energy counter", "methods": "all"} in entries
    searches = next(entry for entry in entries if entry["reason"] == "searches nothing")
    assert searches["methods"] == "random" and "bytes_per_item" in searches["fields"]
