"""Actions of the tests of the interactive figure: make a page around it, use mouse and keyboard, read the numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tests.browser import Browser

STATIC = Path(__file__).parents[2] / "docs" / "_static"
SCRIPT, STYLE = STATIC / "explorer.js", STATIC / "explorer.css"
CLASSES = ("cat", "dog", "bird")

# what furo sets, in its two schemes, and what it does to small print
FURO = {
    "light": "foreground-primary: #000 foreground-secondary: #5a5c63 background-primary: #fff "
    "background-secondary: #f8f9fb brand-content: #2757dd",
    "dark": "foreground-primary: #cfd0d0 foreground-secondary: #9ca0a5 background-primary: #131416 "
    "background-secondary: #1a1c1e brand-content: #5ca5ff",
}

READ = """(root => Object.fromEntries([...root.querySelectorAll('[data-name]')].map(e => {
  const of = e.closest('[data-class]')?.dataset.class;
  return [e.dataset.name + (of ? ' ' + of : ''), [e.dataset.value, e.textContent]];
})))(document.querySelectorAll('.explorer')[%d])"""

FLAWS = """(() => {
  const found = [], root = document.querySelector('.explorer'), edge = root.getBoundingClientRect();
  if (document.scrollingElement.scrollWidth > innerWidth) found.push('the page scrolls sideways');
  const texts = [], walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode, range = document.createRange();
    range.selectNodeContents(node);
    if (!node.data.trim() || !node.parentElement.checkVisibility()) continue;
    for (const box of range.getClientRects()) if (box.width > 1) texts.push([node, box]);
  }
  texts.forEach(([node, a], i) => {
    const pill = node.parentElement.closest('.pill')?.getBoundingClientRect() ?? edge;
    if (a.left < pill.left || a.right > pill.right || a.top < pill.top || a.bottom > pill.bottom)
      found.push('beyond its box: ' + node.data);
    for (const [other, b] of texts.slice(i + 1)) {
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 0.5 && high > 3) found.push('overlap: ' + node.data + ' | ' + other.data);
    }
  });
  for (const e of root.querySelectorAll('*')) {
    const box = e.getBoundingClientRect();
    if (e.checkVisibility() && (box.left < edge.left || box.right > edge.right)) found.push('beyond: ' + e.className);
    if (getComputedStyle(e).display == 'block' && !e.matches('.stack') && e.scrollWidth > e.clientWidth + 3)
      found.push('beyond its box: ' + e.className);
  }
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(x => x / 255)
    .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
    .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  for (const [node] of texts) {
    let behind = null, opacity = 1;
    for (let e = node.parentElement; e; e = e.parentElement) {
      const style = getComputedStyle(e), paint = numbers(style.backgroundColor);
      opacity *= Number(style.opacity);
      if (!behind && (paint[3] ?? 1) == 1) behind = paint;
    }
    behind ??= [255, 255, 255];
    const full = numbers(getComputedStyle(node.parentElement).color);
    const ink = full.map((x, i) => x * opacity + behind[i] * (1 - opacity));
    const [low, high] = [light(ink), light(behind)].sort((a, b) => a - b), ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) found.push('contrast ' + ratio.toFixed(2) + ': ' + node.data);
  }
  return found;
})()"""

SHAPES = """(root => {
  const box = e => e.getBoundingClientRect();
  const share = (part, whole) =>
    [(box(part).left - box(whole).left) / box(whole).width, box(part).width / box(whole).width];
  const rows = [...root.querySelectorAll('tbody tr')].map(row => {
    const [both, signed] = row.querySelectorAll('.bar');
    const mark = share(both.querySelector('.mark'), both);
    const [fill, pull] = [both, signed].map(bar => share(bar.querySelector('.fill'), bar));
    return {q: fill[1], p: mark[0] + mark[1] / 2, pull};
  });
  const stack = root.querySelector('.stack');
  const plots = [...root.querySelectorAll('.plot')].map(plot => {
    const bottom = box(plot).top + plot.clientHeight, high = y => (bottom - y) / plot.clientHeight;
    return {
      bars: [...plot.querySelectorAll('.fill')].map(e => [...share(e, plot), high(box(e).top)]),
      marks: [...plot.querySelectorAll('.mark')].map(e => [...share(e, plot), high((box(e).top + box(e).bottom) / 2)]),
    };
  });
  const axes = [...root.querySelectorAll('.axis')].map(axis => [...axis.children].map(e => Number(e.textContent)));
  return {rows, stack: [...stack.children].map(e => share(e, stack)), plots, axes};
})(document.querySelector('.explorer'))"""


def page(folder: Path, *, theme: str | None = None, script: Path = SCRIPT, figures: int = 1) -> Path:
    """A page with the figure, as the documentation has it or without any theme."""
    both = {name: "".join(f"--color-{word};" for word in re.findall(r"\S+: \S+", FURO[name])) for name in FURO}
    furo = f"body {{ {both['light']} background: var(--color-background-primary) }} small {{ opacity: 75% }}"
    furo += f"body[data-theme=dark] {{ {both['dark']} }}"
    furo += f"@media (prefers-color-scheme: dark) {{ body:not([data-theme=light]) {{ {both['dark']} }} }}"
    path = folder / "page.html"
    _ = path.write_text(
        f"""<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>A page</title>
        <link rel="stylesheet" href="{STYLE.as_uri()}"><script defer src="{script.as_uri()}"></script>
        <style>body {{ margin: 0 auto; padding: 0 1rem; max-width: 46rem; font-family: sans-serif }}</style>
        {f'<style>{furo}</style><body data-theme="{theme}">' if theme else "<body>"}"""
        + '<div class="explorer"><noscript>This figure needs JavaScript.</noscript></div>' * figures
    )
    return path


def show(browser: Browser, path: Path, *, width: int = 820, scheme: str = "light", motion: str = "reduce") -> None:
    browser.open(path, width=width, scheme=scheme)
    wanted = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
    features = [{"name": name, "value": value} for name, value in wanted.items()]
    _ = browser.call("Emulation.setEmulatedMedia", media="screen", features=features)


def mouse(browser: Browser, kind: str, x: float, y: float) -> None:
    _ = browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


def place(browser: Browser, element: str) -> dict[str, float]:
    """Scroll an element, named by a JavaScript expression, into view, and return its place in the window."""
    _ = browser.evaluate(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    return browser.evaluate(f"{element}.getBoundingClientRect().toJSON()")


def click(browser: Browser, element: str, share: float = 0.5) -> None:
    box = place(browser, element)
    x, y = box["left"] + min(max(share * box["width"], 1), box["width"] - 1), box["top"] + box["height"] / 2
    mouse(browser, "mousePressed", x, y)
    mouse(browser, "mouseReleased", x, y)


def press(browser: Browser, key: str, code: int) -> None:
    for kind in ("keyDown", "keyUp"):
        _ = browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)


def pill(name: str, figure: int = 0) -> str:
    figures = f"document.querySelectorAll('.explorer')[{figure}]"
    return f"[...{figures}.querySelectorAll('.pill')].find(e => e.firstChild.textContent == '{name}')"


def slider(index: int, figure: int = 0) -> str:
    return f"document.querySelectorAll('.explorer')[{figure}].querySelectorAll('input[type=range]')[{index}]"


def move(browser: Browser, places: Sequence[float]) -> list[float]:
    """Set the sliders by clicks, and say which logits these are."""
    for index, share in enumerate(places):
        click(browser, slider(index), share)
    return [float(browser.evaluate(slider(index) + ".value")) for index in range(3)]


def read(browser: Browser, figure: int = 0) -> dict[str, float]:
    return {name: float(value or "nan") for name, (value, _) in browser.evaluate(READ % figure).items()}


def text(browser: Browser, name: str) -> str:
    return browser.evaluate(READ % 0)[name][1]
