// The guide's interactive figure: the cost H(p, q) of a prediction q when the target p is true, its gradient, and the
// length of a code made for q. The script fills every <div class="explorer"> on the page, and loads and stores nothing.
//
// The sliders are logits z, with q = softmax(z). Probabilities cannot move one at a time, because they add up to 1;
// logits can. The derivative of the cost by a slider is q − p, the number that stands beside it.

(() => {
  "use strict";

  const CLASSES = ["cat", "dog", "bird"];
  const TRUTHS = [
    { name: "a label", p: [1, 0, 0] },
    { name: "a smoothed label", p: [0.9, 0.05, 0.05] }, // label_smoothing=0.15: 0.85 on the cat, and 0.15 / 3 on each
    { name: "a teacher", p: [0.7, 0.2, 0.1] },
    { name: "a coin flip", p: [0.5, 0.5, 0] },
    { name: "all alike", p: [1 / 3, 1 / 3, 1 / 3] },
  ];
  const PREDICTIONS = [
    { name: "mostly cat", q: [0.7, 0.2, 0.1] },
    { name: "mostly bird", q: [0.1, 0.3, 0.6] },
    { name: "never a cat", q: [0, 0.5, 0.5] },
  ];
  const REACH = 6; // of a slider, to either side
  const STEP = 0.1;
  const ROUNDING = 1e-12; // smaller numbers are shown as 0
  const FRESH = { autocomplete: "off" }; // browsers bring old inputs back when a page is loaded again

  // --- The mathematics -------------------------------------------------------------------------------------------

  const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
  const bits = (nats) => nats / Math.LN2;
  const times = (share, number) => (share === 0 ? 0 : share * number); // 0 · ∞ = 0: an event that never happens is free

  /** All numbers of the figure in nats, from the target p and the logits z. */
  function measure(p, z) {
    const peak = Math.max(...z);
    const logTotal = Math.log(sum(z.map((x) => Math.exp(x - peak))));
    const surprise = z.map((x) => peak - x + logTotal); // −log q, not by way of q, which rounds to 1
    const q = surprise.map((x) => Math.exp(-x));
    const ideal = p.map((x) => 0 - Math.log(x)); // −log p
    const share = p.map((x, i) => times(x, surprise[i]));
    const divergence = sum(p.map((x, i) => times(x, surprise[i] - ideal[i])));
    return {
      p,
      q,
      surprise,
      ideal,
      share,
      gradient: q.map((x, i) => x - p[i]),
      entropy: sum(p.map((x, i) => times(x, ideal[i]))),
      divergence: Math.max(0, divergence), // rounding can leave −1e−17
      cross: sum(share),
    };
  }

  /** The logits one step downhill, z − (q − p), within the reach of the sliders. */
  function descend(z, gradient) {
    const within = (x) => Math.min(REACH, Math.max(-REACH, x));
    return z.map((x, i) => (Math.abs(gradient[i]) < ROUNDING ? x : within(x - gradient[i])));
  }

  // --- Numbers as text -------------------------------------------------------------------------------------------

  const minus = (text) => text.replace("-", "−");

  /** 0.357, 1.2 × 10⁻⁵, ∞: three decimals, or two digits where those would show nothing. */
  function number(x) {
    if (Math.abs(x) < ROUNDING) return "0";
    if (Math.abs(x) === Infinity) return x > 0 ? "∞" : "−∞";
    if (Math.abs(x) >= 0.0005) return minus(x.toFixed(3));
    const [digits, power] = x.toExponential(1).split("e-");
    return `${minus(digits)} × 10⁻${[...power].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("")}`;
  }

  const logit = (x) => (x === -Infinity ? "−∞" : minus((Math.round(100 * x) / 100 || 0).toFixed(2))); // −0 is 0
  const signed = (x) => (x > ROUNDING ? `+${number(x)}` : number(x));

  /** 70.0 %, 99.9988 %, 0 %: as many decimals as it takes to tell a share from none and from all. */
  function percent(x) {
    if (x < ROUNDING || x > 1 - ROUNDING) return x < 0.5 ? "0 %" : "100 %";
    let decimals = 1;
    while (["0", "100"].includes(String(Number((100 * x).toFixed(decimals))))) decimals += 1;
    return `${(100 * x).toFixed(decimals)} %`;
  }

  /** The same facts as a sentence, which screen readers speak after each change. */
  function sentence({ cross, entropy, divergence, gradient }) {
    if (cross === Infinity) {
      return "q gives probability 0 to a class that happens: the cost is infinite, not clipped. The gradient stays finite.";
    }
    const cost =
      `When p is true and q is believed, a case costs ${number(cross)} nats (${number(bits(cross))} bits) on average: ` +
      `${number(entropy)} that no prediction avoids, H(p), and ${number(divergence)} for believing q, KL(p‖q).`;
    const raise = CLASSES.filter((_, i) => gradient[i] < -ROUNDING);
    const lower = CLASSES.filter((_, i) => gradient[i] > ROUNDING);
    if (raise.length === 0) return `${cost} q is p, so the gradient is 0.`;
    return `${cost} Going downhill raises the logit of ${raise.join(" and ")} and lowers that of ${lower.join(" and ")}.`;
  }

  // --- Elements --------------------------------------------------------------------------------------------------

  /** An element with attributes and children; in texts, the letters of the mathematics become italic. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    for (const child of children) element.append(...(typeof child === "string" ? math(child) : [child]));
    return element;
  }

  function math(text) {
    return text.split(/\b([Hpqz])\b/).map((part, i) => (i % 2 ? make("i", {}, document.createTextNode(part)) : part));
  }

  /** A bar, a line or another shape; screen readers skip it, because the same number is written beside it. */
  const shape = (name, ...children) => make("span", { class: name, "aria-hidden": "true" }, ...children);

  /** A place for a number; data-value holds all its digits. */
  const place = (name) => make("span", { class: "number", "data-name": name });

  function write(element, value, text) {
    element.dataset.value = String(value);
    element.textContent = text;
  }

  /** Scale an axis to the smallest of some round ends that covers all finite numbers, and write its ticks. */
  function scale(axis, ends, numbers) {
    const most = Math.max(...numbers.filter(Number.isFinite), 0);
    const end = ends.find((x) => x >= most) ?? ends.at(-1);
    [...axis.children].forEach((tick, i) => {
      tick.textContent = String((end * i) / 4);
    });
    return (x) => `${100 * Math.min(x / end, 1)}%`;
  }

  const ticks = () => [0, 1, 2, 3, 4].map(() => make("span"));

  // --- The parts of the figure: each returns its element, and a function that draws it ------------------------------

  /** A row of buttons or of choices under one legend. */
  const choices = (legend, ...items) =>
    make("fieldset", {}, make("legend", {}, legend), make("div", { class: "choices" }, ...items));

  function choice(group, { name, p }, chosen, choose) {
    const input = make("input", { ...FRESH, type: "radio", name: group, ...(chosen ? { checked: "" } : {}) });
    input.addEventListener("change", choose);
    const numbers = p.map((x) => String(Number(x.toFixed(2)))).join(" · ");
    return make("label", {}, input, make("span", { class: "pill" }, make("span", {}, name), make("small", {}, numbers)));
  }

  function button(name, detail, press) {
    const element = make("button", { type: "button", class: "pill" }, make("span", {}, name), make("small", {}, detail));
    element.addEventListener("click", press);
    return element;
  }

  /** One row for each class: its slider, its probabilities, its cost and its gradient. */
  function classes(id, moved) {
    const heads = [
      ["logit", "z"],
      ["prediction q,", "truth p"],
      ["surprise, nats", "−log q"],
      ["cost, nats", "p · (−log q)"],
      ["gradient", "q − p"],
    ].map((words) => make("th", { scope: "col" }, ...words.flatMap((text) => [make("span", {}, text), " "])));
    const rows = CLASSES.map((name, i) => {
      const range = { ...FRESH, type: "range", id: `${id}-${name}`, min: -REACH, max: REACH, step: STEP };
      const slider = make("input", range);
      slider.addEventListener("input", () => moved(i, Number(slider.value)));
      const [z, q, p, surprise, share, gradient] = ["z", "q", "p", "surprise", "share", "gradient"].map(place);
      const fill = shape("fill");
      const mark = shape("mark");
      const pull = shape("fill");
      const label = make("label", { for: range.id }, shape("swatch"), name);
      const row = make(
        "tr",
        { class: `of-${i}`, "data-class": name },
        make("th", { scope: "row" }, make("span", { class: "line" }, label, make("span", {}, "z = ", z)), slider),
        make(
          "td",
          { class: "both" },
          make("span", { class: "line" }, make("span", {}, "q = ", q), make("span", {}, "p = ", p)),
          shape("bar", fill, mark),
        ),
        make("td", { "data-head": "−log q" }, surprise),
        make("td", { "data-head": "p · (−log q)" }, share),
        make("td", { "data-head": "q − p", class: "pull" }, gradient, shape("bar signed", pull)),
      );
      const draw = (m, logits) => {
        write(z, logits[i], logit(logits[i]));
        write(q, m.q[i], percent(m.q[i]));
        write(p, m.p[i], percent(m.p[i]));
        write(surprise, m.surprise[i], number(m.surprise[i]));
        write(share, m.share[i], number(m.share[i]));
        write(gradient, m.gradient[i], signed(m.gradient[i]));
        slider.value = Math.max(-REACH, logits[i]); // the slider rounds to its next step; the logit keeps its digits
        slider.setAttribute("aria-valuetext", `logit ${z.textContent}, probability ${q.textContent}`);
        fill.style.width = `${100 * m.q[i]}%`;
        mark.style.left = `${100 * m.p[i]}%`;
        pull.style.left = `${50 + 50 * Math.min(m.gradient[i], 0)}%`;
        pull.style.width = `${50 * Math.abs(m.gradient[i])}%`;
      };
      return { row, draw };
    });
    const head = make("tr", {}, ...heads);
    const body = make("tbody", {}, ...rows.map(({ row }) => row));
    return {
      element: make("table", {}, make("thead", {}, head), body),
      draw: (m, logits) => rows.forEach(({ draw }) => draw(m, logits)),
    };
  }

  /** H(p, q) = H(p) + KL(p‖q), as numbers and as one bar. */
  function total() {
    const terms = [
      { name: "cross", formula: "H(p, q)", meaning: "cross-entropy", sign: "" },
      { name: "entropy", formula: "H(p)", meaning: "entropy, unavoidable", sign: "=" },
      { name: "divergence", formula: "KL(p‖q)", meaning: "divergence, avoidable", sign: "+" },
    ].map((term) => ({ ...term, nats: place(term.name), bits: place(`${term.name}-bits`) }));
    const equation = terms.map((term) =>
      make(
        "div",
        { class: `term ${term.name}` },
        make("span", { class: "sign" }, term.sign),
        make("b", {}, term.formula),
        make("span", { class: "nats" }, term.nats, make("small", {}, " nats")),
        make("span", { class: "bits" }, term.bits, " bits"),
        make("small", { class: "meaning" }, term.meaning),
      ),
    );
    const parts = [shape("fill entropy"), shape("fill divergence")];
    const axis = shape("axis", ...ticks());
    const stack = shape("bar stack", ...parts);
    const draw = (m) => {
      for (const term of terms) {
        write(term.nats, m[term.name], number(m[term.name]));
        write(term.bits, bits(m[term.name]), number(bits(m[term.name])));
      }
      const at = scale(axis, [1, 2, 4, 8, 16], [m.entropy, m.cross]);
      parts[0].style.width = at(m.entropy);
      parts[1].style.left = at(m.entropy);
      parts[1].style.width = m.cross === Infinity ? `calc(100% - ${at(m.entropy)})` : at(m.divergence);
      stack.classList.toggle("endless", m.cross === Infinity);
    };
    return { element: make("section", {}, make("div", { class: "equation" }, ...equation), stack, axis), draw };
  }

  /** Codewords as bars: height is the length, width the frequency, so the area is the cost. */
  function codes() {
    const axis = shape("axis upright", ...ticks());
    const unit = () => make("small", {}, " bits");
    const sides = [
      { name: "length", title: "Code made for q", nats: "surprise", total: "cross", formula: "H(p, q)" },
      { name: "ideal", title: "Best code, for p", nats: "ideal", total: "entropy", formula: "H(p)" },
    ].map((side) => {
      const bars = CLASSES.map((_, i) => shape(`fill of-${i}`));
      const marks = CLASSES.map(() => shape("mark"));
      const lengths = CLASSES.map(() => place(side.name));
      const area = place(`${side.name}-area`);
      const key = CLASSES.map((name, i) =>
        make("li", { class: `of-${i}`, "data-class": name }, shape("swatch"), name, make("span", {}, lengths[i], unit())),
      );
      const free = shape("free", "nothing needs to be sent");
      const plot = shape("plot", ...bars, ...(side.name === "length" ? marks : []), free);
      const result = make("p", {}, "Area: ", make("span", {}, area, " bits"), " ", make("span", {}, `= ${side.formula}`));
      const foot = make("div", { class: "foot" }, make("ul", {}, ...key), result);
      const draw = (m, at) => {
        write(area, bits(m[side.total]), number(bits(m[side.total])));
        free.hidden = m[side.total] > ROUNDING;
        CLASSES.forEach((_, i) => {
          const length = bits(m[side.nats][i]);
          write(lengths[i], length, number(length));
          key[i].classList.toggle("unused", m.p[i] === 0);
          bars[i].classList.toggle("endless", length === Infinity);
          bars[i].style.height = at(length);
          marks[i].style.bottom = at(bits(m.ideal[i]));
          for (const { style } of [bars[i], marks[i]]) {
            style.display = m.p[i] === 0 ? "none" : "";
            style.left = `${100 * sum(m.p.slice(0, i))}%`;
            style.width = `${100 * m.p[i]}%`;
          }
        });
      };
      return { title: make("b", {}, side.title), plot, foot, draw };
    });
    const draw = (m) => {
      const used = (lengths) => lengths.filter((_, i) => m.p[i] > 0).map(bits);
      const at = scale(axis, [1, 2, 4, 8, 12, 20], [...used(m.surprise), ...used(m.ideal)]);
      sides.forEach((side) => side.draw(m, at));
    };
    const grid = ["title", "plot", "foot"].flatMap((part) => [
      part === "plot" ? axis : make("small", {}, part === "title" ? "bits" : ""),
      ...sides.map((side) => side[part]),
    ]);
    const note =
      "A class of probability q gets a codeword of −log₂ q bits. Height is its length and width p, how often it is sent, " +
      "so the area is what a message costs on average. Broken lines are the best lengths, −log₂ p. Classes with a " +
      "hollow square are never sent.";
    return { element: make("section", {}, make("div", { class: "codes" }, ...grid), make("p", {}, note)), draw };
  }

  /** Fill one element; its state is the target p and the logits z. */
  function explore(root, index) {
    const id = `explorer-${index}`;
    let { p } = TRUTHS[0];
    let z = PREDICTIONS[0].q.map(Math.log);

    const words = make("p", { class: "words", "aria-live": "polite" });
    const draw = () => {
      const m = measure(p, z);
      parts.forEach((part) => part.draw(m, z));
      words.replaceChildren(...math(sentence(m)));
    };
    const believe = (logits) => {
      z = logits;
      draw();
    };
    const table = classes(id, (i, x) => {
      words.setAttribute("aria-busy", "true"); // until the slider is let go
      believe(z.with(i, x));
    });
    const sums = total();
    const coding = codes();
    const parts = [table, sums, coding];
    for (const end of ["change", "pointerup"]) window.addEventListener(end, () => words.removeAttribute("aria-busy"));

    const truths = TRUTHS.map((truth, i) =>
      choice(`${id}-truth`, truth, i === 0, () => {
        p = truth.p;
        draw();
      }),
    );
    const presets = PREDICTIONS.map(({ name, q }) => button(name, q.join(" · "), () => believe(q.map(Math.log))));
    const same = button("q = p", "costs least", () => believe(p.map(Math.log)));
    const step = button("one step downhill", "z − (q − p)", () => believe(descend(z, measure(p, z).gradient)));
    root.setAttribute("role", "group");
    root.setAttribute("aria-label", "Cross-entropy of three classes, to play with");
    root.replaceChildren(
      choices("What is true, p", ...truths),
      choices("What is predicted, q = softmax(z)", ...presets, same, step),
      table.element,
      sums.element,
      words,
      coding.element,
    );
    draw();
  }

  const start = () => document.querySelectorAll(".explorer").forEach(explore);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
