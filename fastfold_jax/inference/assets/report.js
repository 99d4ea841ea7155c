/* Fills the page from the data in it, and links structure and matrix. Texts are set as text, never as markup. */
"use strict";

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const element = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };
  const hex = (text) => [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16) / 255);
  const number = (value, digits) => (value === undefined || value === null ? "–" : value.toFixed(digits));
  const CHAINS = ["#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948", "#b07aa1", "#9c755f", "#ff9da7", "#bab0ac"];
  const MARKS = [[0.85, 0.1, 0.55], [0.1, 0.65, 0.3]];
  const classOf = (plddt) => data.plddtClasses.find(([low]) => plddt >= low) || data.plddtClasses.at(-1);
  const chainOf = (i) => data.chains.findIndex((chain) => i >= chain.start && i < chain.start + chain.length);
  const named = (i) => {
    const chain = data.chains[chainOf(i)];
    const place = `${data.names[i]}${data.numbers[i]}`;
    return data.chains.length > 1 ? `${chain.id} ${place}` : place;
  };

  const models = data.models.map((model) => {
    const counts = bytes(model.counts), types = bytes(model.types);
    const xyz = new Int16Array(bytes(model.xyz).buffer);
    let atom = 0;
    const residues = Array.from(counts, (count, i) => {
      const atoms = {};
      for (let k = 0; k < count; k++, atom++)
        atoms[data.atomNames[types[atom]]] = [0, 1, 2].map((d) => xyz[3 * atom + d] * model.scale);
      return { chain: chainOf(i), number: data.numbers[i], atoms };
    });
    return { ...model, residues, cells: model.matrix ? bytes(model.matrix) : null };
  });

  let shown = 0, hovered = null, pinned = null;

  /* Texts */
  $("job").textContent = data.job;
  $("about").textContent = data.about;
  if (data.warning) { $("warning").hidden = false; $("warning").textContent = data.warning; }
  for (const [term, value] of data.settings) $("settings").append(element("dt", term), element("dd", value));
  $("command").textContent = data.command;
  $("cite").hidden = !data.citations.length;
  for (const text of data.citations) $("citations").append(element("p", text));
  $("bibtex").textContent = data.bibtex;
  $("licence").textContent = data.licence;
  $("copy").onclick = async () => {
    try { await navigator.clipboard.writeText(data.bibtex); } catch { getSelection().selectAllChildren($("bibtex")); }
  };

  /* Ranking */
  const columns = [["pLDDT", "mean_plddt", 1], ["pTM", "ptm", 3], ["ipTM", "iptm", 3], ["ranking score", "ranking_confidence", 3]]
    .filter(([, key]) => data.ranking.some((row) => row[key] !== null));
  const head = element("tr");
  const relaxed = data.ranking.some((row) => row.violations || row.relaxation_problem);
  const relaxation = (row) => {
    const counts = row.violations ? row.violations.join(" → ") : row.relaxation_problem ? "not relaxed" : "–";
    return row.violations && row.relaxation_problem ? `${counts} (${row.relaxation_problem})` : counts;
  };
  const titles = [...columns.map(([title]) => title), "passes", ...(relaxed ? ["violations, relaxed"] : []), "file"];
  for (const title of ["rank", "prediction", ...titles]) head.append(element("th", title));
  $("ranking").append(head);
  const rows = data.ranking.map((row, place) => {
    const line = element("tr");
    line.append(element("td", String(place)), element("td", row.name));
    for (const [, key, digits] of columns) line.append(element("td", number(row[key], digits)));
    line.append(element("td", String(row.passes)));
    if (relaxed) {
      const cell = element("td", relaxation(row));
      cell.title = row.relaxation_problem || "residues with violations, before and after relaxation";
      line.append(cell);
    }
    line.append(element("td", row.file));
    if (place < models.length) {
      line.className = "pick";
      line.onclick = () => show(place);
      $("model").append(new Option(`${place}: ${row.name}${row.violations ? ", relaxed" : ""}`, place));
    }
    $("ranking").append(line);
    return line;
  });
  $("model").onchange = () => show(Number($("model").value));

  /* The table of a section that is hidden without rows; a column is its title, what to write of a row, and a class. */
  function fillTable(section, found, columns) {
    $(section).hidden = !found.length;
    const line = (tag, cells) => {
      const made = element("tr");
      made.append(...cells.map((cell, i) => element(tag, cell, columns[i][2])));
      return made;
    };
    const lines = found.map((row) => line("td", columns.map(([, write]) => write(row))));
    $(section).querySelector("table").replaceChildren(line("th", columns.map(([title]) => title)), ...lines);
  }
  const figure = (title, key, digits) => [title, (row) => number(row[key], digits)];
  const share = (title, key) => [title, (row) => `${Math.round(100 * row[key])} %`];
  const words = (title, key) => [title, (row) => row[key] ?? "–", "text"];
  const INTERFACE = [["chains", (row) => row.chains.join(" – "), "text"], figure("contacts", "contacts", 0), figure("pLDDT", "plddt", 1),
    figure("PAE (Å)", "pae", 1), figure("least PAE (Å)", "pae_min", 1), figure("ipSAE", "ipsae", 3), figure("LIS", "lis", 3),
    figure("pDockQ", "pdockq", 3), figure("pDockQ2", "pdockq2", 3)];
  const TEMPLATE = [words("chain", "of"), words("template", "name"), words("its chain", "chain"), words("released", "released"),
    share("identity", "identity"), share("coverage", "coverage")];

  /* Structure */
  const viewer = Viewer($("structure"), {
    onHover: (i) => { hovered = i === null ? null : [i, i]; refresh(); },
    onClick: (i) => { pinned = i === null ? null : [i, i]; refresh(); },
  });
  if (!viewer) { $("structure").hidden = true; $("nowebgl").hidden = false; }
  const colours = () => {
    const model = models[shown], kind = $("colouring").value, n = model.residues.length;
    return model.residues.map((residue, i) => {
      if (kind === "chain") return hex(CHAINS[residue.chain % CHAINS.length]);
      if (kind === "position") { const t = i / Math.max(n - 1, 1); return [t, 0.35 + 0.5 * Math.sin(Math.PI * t), 1 - t]; }
      return hex(classOf(model.plddt[i])[1]);
    });
  };
  function fillLegend() {
    const kind = $("colouring").value;
    const entries = kind === "plddt" ? data.plddtClasses.map(([low, tone, name]) => [tone, `${name} (${low ? "≥ " + low : "< 50"})`])
      : kind === "chain" ? data.chains.map((chain, i) => [CHAINS[i % CHAINS.length], `chain ${chain.id}`])
      : [["#0059ff", "first residue"], ["#ff5900", "last residue"]];
    $("colours").replaceChildren(...entries.map(([tone, text]) => {
      const line = element("span"), box = element("i");
      box.style.background = tone;
      line.append(box, text);
      return line;
    }));
  }
  $("colouring").onchange = () => { viewer?.colour(colours()); fillLegend(); };
  $("reset").onclick = () => { pinned = null; viewer?.reset(); refresh(); };
  $("save").onclick = () => {
    if (!viewer) return;
    const link = element("a");
    link.href = viewer.image();
    link.download = `${data.job}_rank${shown}.png`;
    link.click();
  };

  /* Matrix */
  const matrix = $("matrix"), MARGIN = 34;
  let picture = null;
  function paintMatrix() {
    const { side, cells } = { side: data.side, cells: models[shown].cells };
    picture = new OffscreenCanvas(side, side);
    const image = new ImageData(side, side);
    for (let i = 0; i < side * side; i++) {
      const t = cells[i] / 255, tone = data.matrixKind === "pae" ? ramp(t) : ramp(1 - t);
      image.data.set([...tone, 255], 4 * i);
    }
    picture.getContext("2d").putImageData(image, 0, 0);
  }
  /* Dark green to white, as the AlphaFold Protein Structure Database draws aligned errors. */
  const ramp = (t) => [Math.round(255 * t ** 1.1), Math.round(80 + 175 * t ** 0.75), Math.round(255 * t ** 1.1 * 0.98 + 20 * (1 - t))];
  const total = data.names.length;
  const toScreen = (residue, size) => MARGIN + (residue / total) * size;

  function prepare(canvas) {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.font = "11px system-ui, sans-serif";
    return [context, width, height];
  }
  function ticks(most) {
    const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000].find((s) => most / s <= 7) || 5000;
    return Array.from({ length: Math.floor(most / step) }, (_, i) => (i + 1) * step);
  }

  /* Over a picture of a complex; long names are squeezed into their chain's width. */
  function nameChains(context, x, y) {
    if (data.chains.length < 2) return;
    context.fillStyle = "#5a6675";
    context.textAlign = "center";
    for (const { id, start, length } of data.chains)
      context.fillText(id, x(start + length / 2), y, x(start + length) - x(start) - 4);
  }

  function drawMatrix() {
    const [context, width] = prepare(matrix), size = width - MARGIN - 4;
    context.imageSmoothingEnabled = false;
    context.drawImage(picture, MARGIN, MARGIN - 14, size, size);
    const top = MARGIN - 14;
    context.strokeStyle = "#000";
    context.lineWidth = 1;
    context.strokeRect(MARGIN, top, size, size);
    context.fillStyle = "#5a6675";
    for (const tick of ticks(total)) {
      context.textAlign = "center";
      context.fillText(tick, toScreen(tick - 0.5, size), top + size + 13);
      context.textAlign = "right";
      context.fillText(tick, MARGIN - 4, top + ((tick - 0.5) / total) * size + 4);
    }
    for (const chain of data.chains) {
      const at = (chain.start / total) * size;
      if (chain.start) {
        context.beginPath();
        context.moveTo(MARGIN + at, top); context.lineTo(MARGIN + at, top + size);
        context.moveTo(MARGIN, top + at); context.lineTo(MARGIN + size, top + at);
        context.stroke();
      }
    }
    nameChains(context, (residue) => toScreen(residue, size), top - 5);
    for (const [pair, tone] of [[pinned, "#d9268c"], [hovered, "#3a3a3a"]]) {
      if (!pair) continue;
      context.strokeStyle = tone;
      const y = top + ((pair[0] + 0.5) / total) * size, x = toScreen(pair[1] + 0.5, size);
      context.beginPath();
      context.moveTo(MARGIN, y); context.lineTo(MARGIN + size, y);
      context.moveTo(x, top); context.lineTo(x, top + size);
      context.stroke();
    }
  }
  function pairAt(event) {
    const box = matrix.getBoundingClientRect(), size = box.width - MARGIN - 4;
    const j = Math.floor(((event.clientX - box.left - MARGIN) / size) * total);
    const i = Math.floor(((event.clientY - box.top - MARGIN + 14) / size) * total);
    return i >= 0 && j >= 0 && i < total && j < total ? [i, j] : null;
  }
  matrix.addEventListener("pointermove", (event) => { hovered = pairAt(event); refresh(); });
  matrix.addEventListener("pointerleave", () => { hovered = null; refresh(); });
  matrix.addEventListener("click", (event) => { pinned = pairAt(event); refresh(); });

  const valueAt = ([i, j]) => {
    const cell = (r) => Math.min(Math.floor((r * data.side) / total), data.side - 1);
    return (models[shown].cells[cell(i) * data.side + cell(j)] / 255) * data.matrixTop;
  };
  function distanceOf([i, j]) {
    const [a, b] = [models[shown].residues[i].atoms.CA, models[shown].residues[j].atoms.CA];
    return a && b ? `, Cα ${Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]).toFixed(1)} Å apart` : "";
  }

  const HINTS = {
    residue: $("residue").textContent,
    cell: (data.matrixKind === "pae" ? "Aligned on the row, error of the column. " : "")
      + "Point at a cell to see its residues in the structure; click to keep them.",
  };

  /* What is under the pointer, or else what was clicked, in both pictures. */
  function refresh() {
    const pair = hovered || pinned;
    if (pair) {
      const [i, j] = pair, plddt = (r) => `${named(r)} (pLDDT ${models[shown].plddt[r].toFixed(1)})`;
      $("residue").textContent = i === j ? plddt(i) : `${plddt(i)} and ${plddt(j)}${distanceOf(pair)}`;
      $("cell").textContent = data.matrixKind === "pae"
        ? `aligned on ${named(i)}, error of ${named(j)}: ${valueAt(pair).toFixed(1)} Å`
        : `contact of ${named(i)} and ${named(j)}: ${valueAt(pair).toFixed(2)}`;
    } else for (const [id, text] of Object.entries(HINTS)) $(id).textContent = text;
    const marks = pair ? [...new Set(pair)].map((index, k) => ({ index, tone: MARKS[k] })) : [];
    viewer?.mark(marks, pinned ? [...new Set(pinned)] : []);
    drawMatrix();
  }

  /* Lines and areas along the sequence */
  function axes(canvas, most, unit) {
    const [context, width, height] = prepare(canvas), top = data.chains.length > 1 ? 18 : 8;
    const box = { left: 44, top, width: width - 54, height: height - top - 32 };
    context.fillStyle = "#5a6675";
    const x = (r) => box.left + (r / total) * box.width, y = (v) => box.top + box.height * (1 - v / most);
    for (const tick of ticks(total)) { context.textAlign = "center"; context.fillText(tick, x(tick - 0.5), box.top + box.height + 14); }
    for (const tick of [0, ...ticks(most)]) { context.textAlign = "right"; context.fillText(tick, box.left - 5, y(tick) + 4); }
    context.textAlign = "center";
    context.fillText(unit, box.left + box.width / 2, height - 4);
    return [context, box, x, y];
  }
  function frame(context, box, x) {
    context.strokeStyle = "#000";
    context.lineWidth = 1;
    context.strokeRect(box.left, box.top, box.width, box.height);
    for (const chain of data.chains.slice(1)) {
      context.beginPath();
      context.moveTo(x(chain.start), box.top); context.lineTo(x(chain.start), box.top + box.height);
      context.stroke();
    }
    nameChains(context, x, box.top - 5);
  }
  function drawPlddt() {
    const [context, box, x, y] = axes($("plddt"), 100, "residue");
    let upper = 100;
    for (const [low, tone] of data.plddtClasses) {
      context.fillStyle = tone + "22";
      context.fillRect(box.left, y(upper), box.width, y(low) - y(upper));
      upper = low;
    }
    models.forEach((model, place) => {
      context.strokeStyle = place === shown ? "#1f4f91" : "#9aa7b8";
      context.lineWidth = place === shown ? 1.8 : 0.8;
      context.beginPath();
      model.plddt.forEach((value, i) => context.lineTo(x(i + 0.5), y(value)));
      context.stroke();
    });
    frame(context, box, x);
  }
  const IDENTITIES = ["#d0d8e8", "#a9bddc", "#7b9ccb", "#4a78b5", "#1f4f91"];
  function drawCoverage() {
    const depth = data.coverage.depth, sums = depth[0].map((_, i) => depth.reduce((sum, bin) => sum + bin[i], 0));
    const [context, box, x, y] = axes($("coverage"), Math.max(...sums, 1), "residue");
    const base = new Array(total).fill(0);
    for (let b = depth.length - 1; b >= 0; b--) {
      context.fillStyle = IDENTITIES[b];
      depth[b].forEach((count, i) => {
        const bottom = y(base[i]);
        base[i] += count;
        context.fillRect(x(i), y(base[i]), box.width / total + 0.6, bottom - y(base[i]));
      });
    }
    frame(context, box, x);
  }
  $("coverage-title").textContent = `Alignment: ${data.coverage.rows.toLocaleString("en")} sequence${data.coverage.rows > 1 ? "s" : ""}`;
  const edges = data.coverage.identity_edges.map((edge) => Math.round(edge * 100));
  $("identities").append(...IDENTITIES.map((tone, b) => {
    const line = element("span"), box = element("i");
    box.style.background = tone;
    line.append(box, `${edges[b]}–${edges[b + 1]} % identical`);
    return line;
  }));

  /* Scale of the matrix */
  $("matrix-title").textContent = data.matrixKind === "pae" ? "Predicted aligned error" : "Predicted contacts";
  const bar = element("span", undefined, "gradient");
  const stops = [0, 0.25, 0.5, 0.75, 1].map((t) => `rgb(${(data.matrixKind === "pae" ? ramp(t) : ramp(1 - t)).join(",")})`);
  bar.style.background = `linear-gradient(to right, ${stops.join(",")})`;
  $("scale").append("0", bar, data.matrixKind === "pae" ? `${data.matrixTop} Å` : "1");

  function show(place) {
    const keep = place !== shown || viewer === null;
    shown = place;
    $("model").value = place;
    rows.forEach((line, i) => line.classList.toggle("shown", i === place));
    viewer?.show(models[place], colours(), keep);
    paintMatrix();
    fillTable("interfaces", data.ranking[shown].interfaces, INTERFACE);
    fillTable("templates", data.ranking[shown].templates, TEMPLATE);
    refresh();
    drawPlddt();
  }
  fillLegend();
  show(0);
  drawCoverage();
  window.addEventListener("resize", () => { drawMatrix(); drawPlddt(); drawCoverage(); });
  document.documentElement.dataset.ready = viewer ? "yes" : "no-webgl";
})();
