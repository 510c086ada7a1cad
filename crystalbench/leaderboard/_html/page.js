"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const boards = JSON.parse($("#data").textContent);
  const NOTHING = "-";
  const KINDS = { matched: "matched", missed: "missed", spurious: "spurious", split: "pieces of split ones", merged: "merged" };
  const SIZES = ["11rem", "19rem", "28rem", "42rem", "100%"];

  function make(name, properties = {}, ...children) {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  }

  const percent = (value) => (value === null || value === undefined ? NOTHING : `${(100 * value).toFixed(1)} %`);

  // Theme.

  const isDark = () => getComputedStyle(document.documentElement).colorScheme === "dark"
    || (getComputedStyle(document.documentElement).colorScheme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);

  function showTheme() {
    const dark = isDark();
    $("#theme").textContent = dark ? "Light" : "Dark";
    $("#theme").setAttribute("aria-pressed", String(dark));
    $("#theme").setAttribute("aria-label", dark ? "Change to the light theme" : "Change to the dark theme");
    for (const plot of $$(".plot.drawn")) Plotly.relayout(plot, themed(plot));
  }

  $("#theme").addEventListener("click", () => {
    document.documentElement.style.colorScheme = isDark() ? "light" : "dark";
    showTheme();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);

  // The ranking.

  function setUpRanking(board) {
    const table = $(".ranking", board);
    for (const button of $$("thead button", table)) {
      button.addEventListener("click", () => sort(table, button));
    }
    const filter = $(".filter", board);
    filter.addEventListener("input", () => show(board));
    for (const kind of $$(".kind", board)) kind.addEventListener("change", () => show(board));
    show(board);
  }

  function sort(table, button) {
    const header = button.closest("th");
    const ascending = header.getAttribute("aria-sort") !== "ascending";
    for (const other of $$("thead th", table)) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    for (const body of table.tBodies) {
      const rows = $$(".row", body).map((row) => [$(`[data-column="${button.dataset.column}"]`, row).dataset.value, row]);
      rows.sort(([a], [b]) => compare(a, b, ascending));
      body.append(...rows.map(([, row]) => row));
    }
  }

  function compare(a, b, ascending) {
    if (a === "" || b === "") return (a === "") - (b === "");
    const numbers = [Number(a), Number(b)];
    const order = numbers.some(Number.isNaN) ? a.localeCompare(b) : numbers[0] - numbers[1];
    return ascending ? order : -order;
  }

  function show(board) {
    const wanted = $(".filter", board).value.toLowerCase().split(/\s+/).filter(Boolean);
    const kinds = new Set($$(".kind", board).filter((box) => box.checked).map((box) => box.value));
    const all = $$(".ranking .row", board);
    for (const row of all) {
      const text = row.textContent.toLowerCase();
      const isOfKind = kinds.has(row.dataset.kind) || !$(".kind", board);
      row.hidden = !(isOfKind && wanted.every((word) => text.includes(word)));
    }
    for (const part of $$(".ranking .part", board)) part.hidden = $$(".row", part.parentElement).every((row) => row.hidden);
    const shown = all.filter((row) => !row.hidden).length;
    $(".count", board).textContent = `${shown} of ${all.length} methods shown`;
  }

  // Figures.

  // A variable that holds light-dark() is not a colour before something has it.
  function colour(name) {
    const probe = document.body.appendChild(make("i", { hidden: true }));
    probe.style.color = `var(${name})`;
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  }

  function themed(plot) {
    const [ink, line, card] = ["--ink", "--line", "--card"].map(colour);
    const axis = (name) => ({
      [`${name}.gridcolor`]: line, [`${name}.linecolor`]: line, [`${name}.zerolinecolor`]: line, [`${name}.tickcolor`]: line,
    });
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", "font.color": ink,
      "hoverlabel.bgcolor": card, "hoverlabel.font.color": ink, "hoverlabel.bordercolor": line, ...axis("xaxis"), ...axis("yaxis"),
    };
  }

  function draw(plot) {
    const { data, layout } = boards[plot.dataset.board].figures[plot.dataset.figure];
    const own = {
      ...layout,
      autosize: true,
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      font: { family: "system-ui, sans-serif", size: 13 },
      margin: { l: 56, r: 12, t: 8, b: 52, ...layout.margin },
      hoverlabel: { align: "left" },
      showlegend: plot.dataset.figure.startsWith("curve"),
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom" },
      xaxis: { ...layout.xaxis, showline: true, fixedrange: matchMedia("(pointer: coarse)").matches },
      yaxis: { ...layout.yaxis, fixedrange: matchMedia("(pointer: coarse)").matches },
    };
    plot.classList.add("drawn");
    Plotly.newPlot(plot, data, own, { responsive: true, displayModeBar: false })
      .then(() => Plotly.relayout(plot, themed(plot)))
      .then(() => choose(plot));
  }

  function choose(plot) {
    const boxes = $$(".methods input", plot.closest(".view"));
    if (!boxes.length) return;
    const shown = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    Plotly.restyle(plot, { visible: plot.data.map((trace) => !trace.legendgroup || shown.has(trace.legendgroup)) });
  }

  const watcher = new IntersectionObserver((seen) => {
    for (const { target } of seen.filter((one) => one.isIntersecting)) {
      watcher.unobserve(target);
      draw(target);
    }
  }, { rootMargin: "300px" });

  for (const plot of $$(".plot")) watcher.observe(plot);
  for (const box of $$(".methods input")) {
    box.addEventListener("change", () => $$(".plot.drawn", box.closest(".view")).forEach(choose));
  }

  // The gallery.

  function score(board, index, by) {
    const { entries, cases } = boards[board];
    const methods = cases[index].methods;
    const chosen = by === "" ? methods.filter((_, entry) => entries[entry].kind === "ranked") : [methods[by]];
    return chosen.map((method) => method.pq).filter((pq) => pq !== null && pq !== undefined);
  }

  const mean = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);
  const spread = (values) => (values.length ? Math.max(...values) - Math.min(...values) : null);

  function setUpGallery(section) {
    for (const select of $$("select", section)) select.addEventListener("change", () => fillGallery(section));
    fillGallery(section);
  }

  // The order in which the images of each board are looked at.
  const orders = boards.map(() => []);

  function fillGallery(section) {
    const { board } = section.dataset;
    const order = $(".order", section).value;
    const by = $(".by", section).value;
    const found = boards[board].cases.map((one, index) => {
      const scores = score(board, index, by);
      return { index, one, pq: mean(scores), apart: spread(score(board, index, "")) };
    });
    const last = (value, direction) => (value === null ? Infinity : direction * value);
    const keys = { worst: (f) => last(f.pq, 1), best: (f) => last(f.pq, -1), apart: (f) => last(f.apart, -1), name: (f) => f.index };
    found.sort((a, b) => keys[order](a) - keys[order](b) || a.index - b.index);
    orders[board] = found.map((f) => f.index);
    $(".thumbnails", section).replaceChildren(...found.map((f) => thumbnail(board, f)));
  }

  function thumbnail(board, { index, one, pq }) {
    const picture = make("span", { className: "picture" });
    if (one.thumbnail) picture.append(make("img", { loading: "lazy", decoding: "async", alt: "", src: one.thumbnail }));
    const kind = one.difficulty === null ? "" : `, class ${one.difficulty}`;
    const said = make("span", { className: "said" }, make("b", { textContent: one.name }), make("span", { textContent: `PQ ${percent(pq)}${kind}` }));
    return make("li", {}, make("a", { href: `#b${board}-case-${index}` }, picture, said));
  }

  // One image.

  function fillCase(board, index) {
    const { entries, cases } = boards[board];
    const one = cases[index];
    const order = orders[board];
    const place = order.indexOf(index);
    const size = one.shape ? `${one.shape[1]} x ${one.shape[0]} px` : "size not known";
    $("#case-title").textContent = `Image ${one.name}`;
    $("#case-facts").textContent = `${size}${one.difficulty === null ? "" : `, difficulty class ${one.difficulty}`}; ${place + 1} of ${order.length} in the order of the gallery`;
    $("#case-back").href = `#b${board}`;
    for (const [id, step] of [["previous", -1], ["next", 1]]) {
      const other = order[place + step];
      $(`#case-${id}`).hidden = other === undefined;
      $(`#case-${id}`).href = `#b${board}-case-${other}`;
    }
    $("#case-note").hidden = Boolean(one.image);
    $("#case-note").textContent = "The image and its truth are not here: outlines are shown alone, and their errors are not known.";
    const ranked = one.methods.map((method, entry) => ({ method, entry: entries[entry] }));
    ranked.sort((a, b) => (a.entry.kind === "control") - (b.entry.kind === "control") || (b.method.pq ?? -1) - (a.method.pq ?? -1));
    const truth = one.image ? [card(one, null, "Truth", "", "")] : [];
    $("#case-grid").replaceChildren(...truth, ...ranked.map(({ method, entry }) => card(one, method, entry.name, entry.kind, told(method))));
    showCase();
  }

  function told({ pq, acs, acs_truth, errors }) {
    if (pq === undefined) return "no result for this image";
    const parts = [`PQ ${percent(pq)}`];
    if (acs !== null) parts.push(`ACS ${acs.toFixed(1)} px${acs_truth === null ? "" : ` (true ${acs_truth.toFixed(1)})`}`);
    const kinds = errors ? Object.keys(KINDS).filter((kind) => errors[kind]).map((kind) => `${errors[kind]} ${KINDS[kind]}`) : [];
    return [parts.join(", "), kinds.join(", ")].filter(Boolean).join("; ");
  }

  function card(one, method, title, kind, said) {
    const stack = make("div", { className: "stack" });
    const [height, width] = one.shape ?? [1, 1];
    stack.style.aspectRatio = `${width} / ${height}`;
    const layer = (src, className, alt) => stack.append(make("img", { loading: "lazy", decoding: "async", className, alt, src }));
    if (one.image) layer(one.image, "photograph", method ? "" : `image ${one.name}`);
    if (method === null) layer(one.truth, "truth", "outlines of the truth");
    else {
      if (one.truth) layer(one.truth, "over", "");
      if (method.outlines) layer(method.outlines, "outlines", `outlines of ${title}`);
      else stack.append(make("span", { className: "none", textContent: "no label map here" }));
    }
    const name = kind === "control" ? `${title} (control)` : title;
    const figure = make("figure", { className: kind }, stack, make("figcaption", {}, make("b", { textContent: name }), said));
    figure.dataset.kind = kind;
    return figure;
  }

  function showCase() {
    const grid = $("#case-grid");
    grid.classList.toggle("hide-outlines", !$("#case-outlines").checked);
    grid.classList.toggle("hide-truth", !$("#case-truth").checked);
    for (const figure of $$("figure[data-kind=control]", grid)) figure.hidden = !$("#case-controls").checked;
    grid.style.setProperty("--least", SIZES[$("#case-size").value]);
  }

  for (const control of $$("#case input")) control.addEventListener("input", showCase);

  // Addresses: #b0 is a board, #b0-row-3 a row's page, #b0-case-7 an image, #b0-gallery a part of the board.

  let opener = null;

  function route() {
    const [, number, kind, index] = /^#b(\d+)(?:-([a-z]+)(?:-(\d+))?)?$/.exec(location.hash) ?? [];
    const board = Number(number ?? (location.hash === "" ? 0 : currentBoard()));
    if (!boards[board]) return;
    let id = `b${board}`;
    if (kind === "row" && document.getElementById(`b${board}-row-${index}`)) id = `b${board}-row-${index}`;
    if (kind === "case" && boards[board].cases[index]) {
      id = "case";
      fillCase(board, Number(index));
    }
    const changed = document.getElementById(id).hidden || id === "case";
    for (const view of $$(".view")) view.hidden = view.id !== id;
    if ($("#board-choice")) $("#board-choice").value = String(board);
    if (number !== undefined) move(id, board, kind, changed);
  }

  const currentBoard = () => Math.max(0, $$(".board").findIndex((board) => !board.hidden));

  function move(id, board, kind, changed) {
    const part = document.getElementById(`b${board}-${kind}`);
    const heading = part ?? $("h1", document.getElementById(id));
    if (id === `b${board}` && !part && opener && opener.isConnected) {
      opener.focus();
      opener.scrollIntoView({ block: "center", behavior: "instant" });
    } else {
      heading.focus({ preventScroll: true });
      if (part) part.scrollIntoView();
      else if (changed) scrollTo({ top: 0, behavior: "instant" });
    }
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest(".board a[href*='-row-'], .board a[href*='-case-']");
    if (link) opener = link;
  });
  $("#board-choice")?.addEventListener("change", (event) => {
    opener = null;
    location.hash = `#b${event.target.value}`;
  });
  addEventListener("hashchange", route);

  for (const board of $$(".board")) setUpRanking(board);
  for (const section of $$(".gallery")) setUpGallery(section);
  showTheme();
  for (const view of $$(".view")) view.hidden = view.id !== "b0";
  route();
})();
