"""The page's own Markdown, tables and streams, in the browser that runs them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from llmasos_hookspecs.testing import ScriptedRuntime
from llmasos_serve_http.listening import HttpServer
from llmasos_serve_http.options import Options

from .page import Page

#: Pieces of which texts are put together at random: all that begins or ends something.
PIECES = [
    *("otter", " ", "  ", "\n", "\n\n", "- ", "* ", "1. ", "2) ", "> ", "# ", "### ", "```", "```py\n", "~~~\n", "`", "``", "*", "**", "_"),
    *("__", "~~", "| a | b |\n", "| --- | :-: |\n", "|", "---\n", "[x](https://example.org)", "[x](javascript:alert(1))"),
    *("https://example.org/a_b", "\\", "\\*", "!", "[", "](", ")", "    ", "<b>", "&amp;", "今天", "é", "🦦", "\t", "-", "1"),
]

STREAMED = """
const [pieces, rounds] = args;
const { Markdown, rendered } = await import("./console/markdown.js");
let seed = 7;
const random = (below) => (seed = (seed * 48271) % 2147483647) % below;
for (let round = 0; round < rounds; round += 1) {
  const text = Array.from({ length: 1 + random(30) }, () => pieces[random(pieces.length)]).join("");
  const whole = document.createElement("div");
  whole.append(...rendered(text));
  const streamed = document.createElement("div");
  const markdown = new Markdown(streamed);
  for (let at = 0; at < text.length; ) {
    const width = 1 + random(9);
    markdown.append(text.slice(at, at + width));
    if (random(2)) markdown.end();
    at += width;
  }
  markdown.end();
  if (!streamed.isEqualNode(whole)) return JSON.stringify({ text, whole: whole.outerHTML, streamed: streamed.outerHTML });
}
return "equal";
"""


@pytest.fixture(scope="module")
def shown(driver: Any) -> Iterator[Page]:
    """One page, of whose modules each test takes what it needs."""
    server = HttpServer(ScriptedRuntime(), Options(port=0, conversations=False))
    server.start()
    yield Page(driver, server.endpoints[0].url)
    driver.get("about:blank")
    server.stop()


def test_a_stream_drawn_piece_by_piece_equals_the_whole_text(shown: Page) -> None:
    assert shown.js(STREAMED, PIECES, 6 * settings.default.max_examples) == "equal"


def test_blocks_and_spans_are_what_their_marks_say(shown: Page) -> None:
    cases = {
        "a *b* **c** `d` ~~e~~ _f_ __g__": "<p>a <em>b</em> <strong>c</strong> <code>d</code> <s>e</s> <em>f</em> <strong>g</strong></p>",
        "snake_case_name and 2*3*4 = 24": "<p>snake_case_name and 2<em>3</em>4 = 24</p>",
        "**bold *and* more**": "<p><strong>bold <em>and</em> more</strong></p>",
        "``a`b``": "<p><code>a`b</code></p>",
        r"\*not\* <b>html</b> &amp;": "<p>*not* &lt;b&gt;html&lt;/b&gt; &amp;amp;</p>",
        "# One\n## Two ##": "<h3>One</h3><h4>Two</h4>",
        "- a\n  - b\n- c": "<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>",
        "3. a\n4. b": '<ol start="3"><li>a</li><li>b</li></ol>',
        "> a\n> - b": "<blockquote><p>a</p><ul><li>b</li></ul></blockquote>",
        "a  \nb": "<p>a<br>b</p>",
        "***": "<hr>",
        "[a](javascript:alert(1)) [b](/v1/models) [c](data:text/html,x)": "<p><span>a</span> <span>b</span> <span>c</span></p>",
        "*open **and `open": "<p>*open **and `open</p>",
    }
    found = json.loads(
        shown.js(
            """
            const { rendered } = await import("./console/markdown.js");
            const html = (text) => { const node = document.createElement("div"); node.append(...rendered(text)); return node.innerHTML; };
            return JSON.stringify(args[0].map(html));
            """,
            list(cases),
        )
    )
    assert dict(zip(cases, found, strict=True)) == cases


def test_links_of_an_answer_tell_their_server_nothing(shown: Page) -> None:
    html = shown.js(
        """
        const { rendered } = await import("./console/markdown.js");
        const node = document.createElement("div");
        node.append(...rendered("![alt](https://example.org/x.png) and (https://example.org/a_(b))."));
        return node.innerHTML;
        """
    )
    rel = 'target="_blank" rel="noopener noreferrer nofollow"'
    assert (
        html
        == f'<p><a href="https://example.org/x.png" {rel}>alt</a> and (<a href="https://example.org/a_(b)" {rel}>https://example.org/a_(b)</a>).</p>'
    )


def test_no_text_takes_more_than_work_in_proportion(shown: Page) -> None:
    # Marks that never close, quotes and items within one another: none may recurse without end or raise.
    long = ["*" * 30_000, "**a " * 5000, "[" * 20_000, "`" * 19_999, "> " * 10_000, "- " * 10_000, "(" * 20_000]
    for text in [*long, "| a " * 5000 + "\n" + "|-" * 5000]:
        drawn = shown.js(
            """
            const { rendered } = await import("./console/markdown.js");
            const node = document.createElement("div");
            node.append(...rendered(args[0]));
            return node.textContent.length + node.childElementCount;
            """,
            text,
        )
        assert drawn > 0


def test_tables_come_back_as_they_were(shown: Page) -> None:
    rows = [["id", "text"], ["1", 'say "hi", otters\nand more'], ["2", ""], ["-3", "今天"]]
    found = shown.js(
        """
        const { parse, format } = await import("./console/csv.js");
        return JSON.stringify([parse(format(args[0])), parse("\\uFEFFa,b\\n1,2"), format([["=1+1", "-5"]]), parse("")]);
        """,
        rows,
    )
    assert json.loads(found) == [rows, [["a", "b"], ["1", "2"]], " =1+1,-5\r\n", []]


def test_events_are_read_whole_however_the_stream_is_cut(shown: Page) -> None:
    stream = ': waiting\n\ndata: {"a": "今天🦦"}\r\n\r\ndata: one\ndata: two\n\ndata: cut'
    found = shown.js(
        """
        const { events } = await import("./console/sse.js");
        const bytes = new TextEncoder().encode(args[0]);
        const all = [];
        for (let width = 1; width <= bytes.length; width += 1) {
          const body = new ReadableStream({
            start(control) {
              for (let at = 0; at < bytes.length; at += width) control.enqueue(bytes.slice(at, at + width));
              control.close();
            },
          });
          const found = [];
          for await (const data of events(body)) found.push(data);
          all.push(JSON.stringify(found));
        }
        return JSON.stringify([...new Set(all)]);
        """,
        stream,
    )
    assert json.loads(found) == [json.dumps(['{"a": "今天🦦"}', "one\ntwo"], ensure_ascii=False, separators=(",", ":"))]


def test_quantiles_are_those_between_two_looks(shown: Page) -> None:
    found = shown.js(
        """
        const { samples, histogram, quantile, total } = await import("./console/prometheus.js");
        const text = (counts) => ["0.1", "0.5", "+Inf"].map((le, at) => `t_bucket{le="${le}",model="a b"} ${counts[at]}`).join("\\n");
        const [before, after] = [[5, 5, 5], [5, 15, 15]].map((counts) => histogram(samples(text(counts)), "t"));
        const odd = samples('# HELP x y\\nx{model="a\\\\"b",tenant="c,d"} 2\\nx{model="e"} 3.5\\n');
        return JSON.stringify([quantile(before, after, 0.5), quantile(after, after, 0.5), total(odd, "x"), odd.get("x")[0].labels]);
        """
    )
    middle, none, total, labels = json.loads(found)
    assert abs(middle - 0.3) < 1e-9
    assert none is None
    assert total == 5.5
    assert labels == {"model": 'a\\"b', "tenant": "c,d"}


def test_what_has_ended_is_not_drawn_again_while_more_arrives(shown: Page) -> None:
    paragraphs = 200
    words = 20
    drawn = shown.js(
        """
        const [paragraphs, words] = args;
        const { Markdown } = await import("./console/markdown.js");
        const node = document.createElement("div");
        let added = 0;
        const observer = new MutationObserver(() => {});
        observer.observe(node, { childList: true });
        const markdown = new Markdown(node);
        for (let paragraph = 0; paragraph < paragraphs; paragraph += 1) {
          for (let word = 0; word < words; word += 1) {
            markdown.append("otter ");
            markdown.end();
          }
          markdown.append("\\n\\n");
          for (const record of observer.takeRecords()) added += record.addedNodes.length;
        }
        return [node.childElementCount, added];
        """,
        paragraphs,
        words,
    )
    assert drawn[0] == paragraphs
    assert drawn[1] <= 2 * paragraphs * (words + 2)  # the last block, and the one before until a whole line has ended it
