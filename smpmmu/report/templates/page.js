"use strict";
(() => {
  const run = JSON.parse(document.getElementById("run").textContent);
  const last = run.steps.length;
  const cells = new Map();
  for (const cell of document.querySelectorAll("[data-cell]")) {
    cells.set(Number(cell.dataset.cell), cell);
  }
  const now = document.getElementById("now");
  const doing = document.getElementById("doing");
  const where = document.getElementById("where");
  let at = -1;

  function values(number) {
    const shown = run.first.slice();
    for (const step of run.steps.slice(0, number)) {
      for (const [cell, text] of step.changes) shown[cell] = text;
    }
    return shown;
  }

  function show(number, scroll) {
    at = Math.max(0, Math.min(last, number));
    const changed = new Set(at ? run.steps[at - 1].changes.map((change) => change[0]) : []);
    values(at).forEach((text, number) => {
      const cell = cells.get(number);
      cell.textContent = text;
      cell.classList.toggle("changed", changed.has(number));
    });
    for (const step of document.querySelectorAll(".step.now")) {
      step.classList.remove("now");
      step.querySelector("a").removeAttribute("aria-current");
    }
    const chosen = document.getElementById(`s${at}`);
    if (chosen) {
      chosen.classList.add("now");
      chosen.querySelector("a").setAttribute("aria-current", "step");
    }
    let line = null;
    for (const each of document.querySelectorAll("[data-history]")) {
      each.classList.remove("now");
      if (Number(each.dataset.history) <= at) line = each;
    }
    if (line) line.classList.add("now");
    const ending = at === last ? ", the last" : "";
    now.textContent = at ? `After step ${at} of ${last}${ending}` : "At first";
    doing.textContent = at ? run.steps[at - 1].text : "Go on with \u2192 or j, or click a step.";
    where.replaceChildren(...(at ? run.steps[at - 1].where : []).map(([name, line]) => {
      const item = document.createElement("li");
      const code = document.createElement("code");
      code.textContent = line;
      item.append(`${name} `, code);
      return item;
    }));
    const disable = { first: at === 0, back: at === 0, on: at === last, last: at === last };
    for (const button of document.querySelectorAll("[data-go]")) {
      button.disabled = Boolean(disable[button.dataset.go]);
    }
    if (scroll && chosen) chosen.querySelector(".what").scrollIntoView({ block: "nearest" });
    try {
      history.replaceState(null, "", at ? `#s${at}` : "#");
    } catch {
      // Browsers refuse when a key is held down for long; the address is a convenience.
    }
  }

  function change(direction) {
    let number = at + direction;
    while (number > 0 && number < last && !run.steps[number - 1].entries) number += direction;
    return number;
  }

  const go = {
    first: () => show(0, true),
    back: () => show(at - 1, true),
    on: () => show(at + 1, true),
    last: () => show(last, true),
    change: () => show(change(1), true),
    before: () => show(change(-1), true),
    fold: () => {
      const folded = document.body.classList.toggle("folded");
      document.querySelector(".fold").setAttribute("aria-expanded", String(!folded));
    },
  };
  const keys = {
    ArrowLeft: "back", k: "back", ArrowRight: "on", j: "on",
    Home: "first", End: "last", n: "change", p: "before",
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || !Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    go[keys[event.key]]();
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-go]");
    if (button) return go[button.dataset.go]();
    const step = event.target.closest(".step");
    if (step && !String(getSelection())) {
      event.preventDefault();
      show(Number(step.dataset.step), false);
    }
  });

  function follow() {
    const found = /^#s(\d+)$/.exec(location.hash);
    show(found ? Number(found[1]) : 0, Boolean(found));
  }
  addEventListener("hashchange", follow);
  let before = 0; // paper cannot be stepped through: it shows the end
  addEventListener("beforeprint", () => { before = at; show(last, false); });
  addEventListener("afterprint", () => show(before, false));
  document.documentElement.classList.add("alive");
  follow();
})();
