
"use strict";
// Tables of any length: all rows are kept as columns of numbers and words, one page of them is
// shown. Values reach the page as text nodes only.
(() => {
  const ROWS = 50;  // of a page
  const collator = new Intl.Collator("en", {numeric: true});
  const counts = new Intl.NumberFormat("en-US");

  /** An element with attributes and children. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  /** What a column needs to show, sort and filter: words are told by their places in a list. */
  function reader(column) {
    if (column.words) {
      const {words, at} = column;
      const rank = column.ranks || new Uint32Array(words.length);
      if (!column.ranks) [...words.keys()].sort((a, b) => collator.compare(words[a], words[b]))
        .forEach((word, place) => { rank[word] = place; });
      return {
        text: row => words[at[row]],
        key: row => words[at[row]] === "" ? null : rank[at[row]],
        matches: query => {
          const wanted = query.toLowerCase();
          const found = words.map(word => word.toLowerCase().includes(wanted));
          return row => found[at[row]];
        },
      };
    }
    const {values, digits} = column;
    const format = new Intl.NumberFormat(
      "en-US", {minimumFractionDigits: digits, maximumFractionDigits: digits});
    return {
      text: row => values[row] === null ? "" : format.format(values[row]),
      key: row => values[row],
      matches: query => {
        const test = comparison(query);
        return test && (row => values[row] !== null && test(values[row]));
      },
    };
  }

  /** "> 5", "<= 5", "5" or "1 .. 5" as a test of numbers; null for anything else. */
  function comparison(query) {
    const number = text => /^-?(\d[\d,]*\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text)
      ? Number(text.replaceAll(",", "")) : NaN;
    const range = query.split("..").map(text => number(text.trim()));
    if (range.length === 2 && !range.some(Number.isNaN)) {
      return value => range[0] <= value && value <= range[1];
    }
    const [, sign, text] = /^(<=|>=|<|>|=|)\s*(.*)$/.exec(query.trim());
    const limit = number(text);
    if (Number.isNaN(limit)) return null;
    return {
      "<": value => value < limit, "<=": value => value <= limit,
      ">": value => value > limit, ">=": value => value >= limit,
    }[sign] || (value => value === limit);
  }

  function build(place, {title, length, columns}) {
    const readers = columns.map(reader);
    const queries = columns.map(() => "");
    let sorted = {column: -1, down: false};
    let rows = Uint32Array.from({length}, (_, row) => row);
    let page = 0;

    const heads = columns.map((column, index) => {
      const button = make("button", {type: "button"}, column.label);
      const filter = make("input", {
        type: "search", autocomplete: "off", spellcheck: "false",
        "aria-label": `filter ${column.label}`,
        placeholder: column.words ? "contains" : "> 0",
      });
      const head = make("th", {scope: "col", "aria-sort": "none"}, button, filter);
      if (!column.words) head.classList.add("number");
      button.addEventListener("click", () => {
        sorted = {column: index, down: sorted.column === index && !sorted.down};
        heads.forEach((other, at) => other.setAttribute("aria-sort",
          at !== index ? "none" : sorted.down ? "descending" : "ascending"));
        choose();
      });
      filter.addEventListener("input", () => { queries[index] = filter.value.trim(); choose(); });
      return head;
    });
    const body = make("tbody");
    const status = make("span", {role: "status"});
    const turn = (label, by) => {
      const button = make("button", {type: "button"}, label);
      button.addEventListener("click", () => { page += by; show(); });
      return button;
    };
    const back = turn("previous", -1), on = turn("next", 1);
    place.append(
      make("div", {class: "pager"}, back, on, status),
      make("div", {class: "scroll", role: "region", tabindex: "0", "aria-label": title},
        make("table", {"aria-label": title},
          make("thead", {}, make("tr", {}, ...heads)), body)));

    /** Find and order the rows. */
    function choose() {
      const tests = [];
      queries.forEach((query, index) => {
        const input = heads[index].querySelector("input");
        const test = query === "" ? null : readers[index].matches(query);
        if (query === "" || test) input.removeAttribute("aria-invalid");
        else input.setAttribute("aria-invalid", "true");
        if (test) tests.push(test);
      });
      const found = [];
      for (let row = 0; row < length; row++) if (tests.every(test => test(row))) found.push(row);
      if (sorted.column >= 0) {
        const {key} = readers[sorted.column], sign = sorted.down ? -1 : 1;
        found.sort((a, b) => {  // stable; empty cells are last either way
          const left = key(a), right = key(b);
          if (left === null || right === null) return (left === null) - (right === null);
          return sign * (left - right);
        });
      }
      rows = Uint32Array.from(found);
      page = 0;
      show();
    }

    /** Show a page of them. */
    function show() {
      const first = page * ROWS, last = Math.min(first + ROWS, rows.length);
      body.replaceChildren(...Array.from(rows.subarray(first, last), row =>
        make("tr", {}, ...columns.map((column, index) => {
          const cell = make("td", {}, readers[index].text(row));
          if (!column.words) cell.className = "number";
          else if (cell.textContent.length > 60) cell.className = "long";
          return cell;
        }))));
      const of = rows.length === length ? "" : ` (of ${counts.format(length)})`;
      status.textContent = rows.length === 0 ? `no row matches${of}`
        : `rows ${counts.format(first + 1)} to ${counts.format(last)} of ${counts.format(rows.length)}${of}`;
      back.disabled = page === 0;
      on.disabled = last === rows.length;
    }
    show();
  }

  const data = JSON.parse(document.getElementById("data").textContent);
  for (const [id, table] of Object.entries(data)) build(document.getElementById(`table-${id}`), table);
})();
