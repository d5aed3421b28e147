// Reads the log of steering/ui/scope.py and draws what follows from it: status line, pane heads, line chart, map of
// tokens and layers, and the marks in the answers. Runs once, with the other scope-….js before it, as the body of a
// function of (element, props, watch, trigger). Text of a model reaches the page by textContent or on a canvas only.

const PANES = ['baseline', 'ablated', 'added', 'fourth', 'fifth']; // by column
const DASHES = ['2px,2px', '7px,3px', 'solid', '6px,3px,2px,3px', '9px,2px,2px,2px,2px,2px']; // by look
const WIDTHS = [2, 2, 2.4, 2, 2];
const COUNTED = ['none', 'one', 'two', 'three', 'four', 'five'];
const COLUMN_STEPS = [32, 64, 96, 128, 200, 260, 384, 512, 768, 1024];
const MARGIN = { l: 52, r: 78, t: 4, b: 38 };
const UPPER_STEPS = [0.65, 0.92, 1.16];
const LOWER_STEPS = [-0.2, -0.45, -0.7, -1.16];
const CHART_INTERVAL = 100; // ms; and on a slow machine never more than a quarter of the time, or the text would lag
const CHART_SHARE = 0.25;
const REST_WORDS = 'Each column is one token, a word or part of one.';
const RUNNING = ['prefill', 'running'];

const root = element.closest('#scope') || element;
const find = (id) => document.getElementById(id);
const touch = matchMedia('(pointer: coarse)').matches;
const canvas = element.querySelector('canvas');
const box = element.querySelector('#sc-mapbox');
const line = element.querySelector('#sc-line');
const [steered, ...names] = element.querySelectorAll('#sc-names span');

let log = '';
let run, idea, state, tokens, moved, hover, pinned, upper, lower, parts, branch;
let shown = 2; // the column that the map shows
const cells = document.createElement('canvas');
let cellsKey = '';
let cellsDrawn = 0;

function forget() {
  run = null;
  state = { state: 'idle' };
  tokens = PANES.map(() => []);
  moved = [];
  hover = pinned = null;
  parts = PANES.map(() => -1);
  branch = { current: 1, count: 1 };
  forgetLikeliest();
  cellsKey = '';
  upper = UPPER_STEPS[0];
  lower = LOWER_STEPS[0];
}
idea = { names: ['As it is', 'Taken out', 'Turned up'], short: ['As it is', 'Taken out', 'Turned up'], looks: [0, 1, 2], added: 'turned up here' };
forget();

const columnCount = () => idea.names.length;
const columnList = () => idea.names.map((_, column) => column);
const looksOf = (column) => (idea.looks ? idea.looks[column] : column);
const unit = () => (run && run.unit) || 'token'; // a "piece" where a server's events are not known to be tokens

// ---------------------------------------------------------------- the log

function unpack(encoded) {
  const bytes = atob(encoded);
  const cosines = new Float32Array(bytes.length);
  for (let i = 0; i < bytes.length; i += 1) cosines[i] = ((bytes.charCodeAt(i) << 24) >> 24) / 127;
  return cosines;
}

function read(record) {
  const kind = record[0];
  const rest = record.slice(2);
  if (kind === 'T') {
    const [number, which, token, encoded] = rest.split('|');
    if (!tokens[which]) return;
    const cosines = unpack(encoded);
    tokens[which][number - 1] = { text: decodeURIComponent(token), cosines };
    let low = 0;
    let high = 0;
    for (const value of cosines) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    while (high > upper && upper !== UPPER_STEPS.at(-1)) upper = UPPER_STEPS[UPPER_STEPS.indexOf(upper) + 1];
    while (low < lower && lower !== LOWER_STEPS.at(-1)) lower = LOWER_STEPS[LOWER_STEPS.indexOf(lower) + 1];
  } else if (kind === 'S') {
    state = JSON.parse(rest);
  } else if (kind === 'H') {
    run = JSON.parse(rest);
  } else if (kind === 'I') {
    idea = JSON.parse(rest);
    if (shown >= columnCount()) shown = columnCount() - 1;
    cellsKey = '';
    tellPage('idea');
  } else if (kind === 'C') {
    const [number, coefficient] = rest.split('|');
    const last = moved.at(-1);
    if (last && last.number === Number(number)) moved.pop();
    moved.push({ number: Number(number), coefficient });
  } else if (kind === 'B') {
    const [current, count] = rest.split('|').map(Number);
    branch = { current, count };
  } else if (kind === 'P') {
    readLikeliest(rest);
  }
}

function update() {
  const value = typeof props.value === 'string' ? props.value : '';
  const end = value.lastIndexOf('\n') + 1;
  const grew = value.startsWith(log);
  const fresh = value.slice(grew ? log.length : 0, end);
  if (!grew || /^T\|/m.test(fresh)) endReplay();
  const kept = { run: run && run.run, columns: columnCount(), pinned, looked: keptLikeliest() };
  if (!grew) forget();
  log = value.slice(0, end);
  for (const record of fresh.split('\n')) if (record) read(record);
  findPartings();
  if (!grew && run && run.run === kept.run) {
    pinned = kept.pinned; // the same run, told anew: what was being looked at stays
    restoreLikeliest(kept.looked);
  }
  if (isRecorded() && (run.run !== kept.run || columnCount() !== kept.columns)) showFromTheStart();
  schedule();
}

// The first token in which an answer differs from the one as it is: an index, or -1 while both say the same.
function findPartings() {
  if (unit() !== 'token') findPartingsByText();
  else for (const which of columnList().slice(1)) findParting(which);
}

// Where an answer's pieces are what came over a line, two servers may cut the same words differently; the texts count.
function findPartingsByText() {
  const texts = columnList().map((column) => tokens[column].map((piece) => piece.text).join(''));
  const ended = !RUNNING.includes(state.state);
  let first = Infinity;
  for (const which of columnList().slice(1)) {
    const both = Math.min(texts[0].length, texts[which].length);
    let at = 0;
    while (at < both && texts[0][at] === texts[which][at]) at += 1;
    const written = texts[0] && texts[which]; // a server that wrote nothing parts from nobody
    const apart = written && (at < both || (ended && texts[which].length !== texts[0].length));
    parts[which] = apart ? pieceAt(which, at) : -1;
    if (apart) first = Math.min(first, at);
  }
  parts[0] = first === Infinity ? -1 : pieceAt(0, first);
}

// The piece that holds a place of the answer's text; the last one for a place behind it.
function pieceAt(which, at) {
  let end = 0;
  for (const [index, piece] of tokens[which].entries()) {
    end += piece.text.length;
    if (end > at) return index;
  }
  return tokens[which].length - 1;
}

function findParting(which) {
  if (parts[which] >= 0) return;
  const own = tokens[which];
  const plain = tokens[0];
  const both = Math.min(own.length, plain.length);
  for (let i = 0; i < both; i += 1) {
    if (own[i].text !== plain[i].text) {
      parts[which] = i;
      break;
    }
  }
  if (parts[which] < 0 && !RUNNING.includes(state.state) && !isReplaying() && own.length > both) parts[which] = both;
  const found = parts.slice(1, columnCount()).filter((part) => part >= 0);
  parts[0] = found.length ? Math.min(...found) : -1;
}

const longest = () => Math.max(...tokens.map((list) => list.length));

function tellPage(what) {
  document.dispatchEvent(new CustomEvent('steering', { detail: { what, idea, state, run, ask: askWords() } }));
}

// ---------------------------------------------------------------- drawing, at most once a frame

let waiting = false;
let chartDue = 0;
let chartTimer = 0;

function schedule() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    drawColumns();
    drawWords();
    drawLook();
    if (!idea.no_plot) {
      drawMap();
      drawChart();
    }
    markAnswers();
    mark(root, 'tokens', String(longest()));
    mark(root, 'state', state.state);
  });
}

function put(node, text) {
  if (node && node.textContent !== text) node.textContent = text;
}

function mark(node, name, value) {
  if (node.dataset[name] !== value) node.dataset[name] = value;
}

function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

function statusWords() {
  if (state.message) return state.message;
  const count = longest();
  switch (state.state) {
    case 'loading': return isRecorded() ? 'Loading the model. The recorded example works already.' : 'Loading the model.';
    case 'queued': return 'Waiting…';
    case 'prefill': return 'Reading your question…';
    case 'running': return `Writing… ${writtenWords(count)}${pastBreaking()}`;
    case 'stopped': return `Stopped after ${plural(count, unit())}. What was written stays.`;
    case 'error': return 'Something went wrong. Ask again.';
    default:
      if (isReplaying()) return `Replaying. ${count} of ${plural(replayLength(), 'token')}`;
      if (isRecorded()) return `Recorded example. Press “${askWords()}” to run it live.`;
      return count ? `Done. ${plural(count, unit())}. ${partingWords()}` : 'Ready. Ask a question, or pick one.';
  }
}

function writtenWords(count) {
  const most = `at most ${plural(run ? run.max_new_tokens : count, 'token')}`;
  return unit() === 'token' ? `${count} of ${most}` : `${plural(count, unit())}, ${most}`;
}

function pastBreaking() {
  const strength = moved.length ? Number(moved.at(-1).coefficient) : run && run.coefficient;
  return idea.sweet && strength > idea.sweet[1] ? ' · strength is past the point where text breaks' : '';
}

const allWords = () => (columnCount() === 2 ? 'both' : `all ${COUNTED[columnCount()]}`);
const askWords = () => `Ask ${allWords()}`;
const capital = (words) => words[0].toUpperCase() + words.slice(1);
const partingWords = () => (parts[0] < 0 ? `${capital(allWords())} are the same.` : `They part at ${unit()} ${parts[0] + 1}.`);

let spokenState = '';
const heads = [];
let columnsKey = '';
let panesMounted = 0;

// Which columns there are, with their names, colours and dashes; only when the log changed them, or Gradio its parts.
function drawColumns() {
  const panes = find('panes');
  const mounted = document.querySelectorAll('.toggles button, .pane-head').length;
  const key = JSON.stringify([idea.names, idea.short, idea.looks, mounted]);
  if (key === columnsKey) return;
  columnsKey = key;
  panesMounted = document.querySelectorAll('#panes .pane-head').length;
  palette = null;
  if (panes) mark(panes, 'columns', String(columnCount()));
  put(find('sc-no-plot'), idea.no_plot || '');
  root.toggleAttribute('data-no-plot', Boolean(idea.no_plot));
  mark(root, 'columns', String(columnCount()));
  for (const [column, pane] of PANES.entries()) {
    const there = column < columnCount();
    for (const button of document.querySelectorAll(`.toggles button[data-column="${column}"]`)) {
      button.hidden = !there;
      if (!there) continue;
      put(button.querySelector('span'), idea.short[column]);
      dress(button.querySelector('.swatch'), column);
    }
    const place = find(`pane-${pane}`);
    if (!there || !place) continue;
    mark(place, 'look', String(looksOf(column)));
    dress(place.querySelector('.pane-head .swatch'), column);
    names[column].dataset.look = looksOf(column);
  }
  showColumn(shown);
  tellPage('idea');
}

// Give a swatch the colour and the dashes of a column.
function dress(swatch, column) {
  if (!swatch) return;
  mark(swatch, 'look', String(looksOf(column)));
  swatch.firstElementChild.setAttribute('stroke-dasharray', DASHES[looksOf(column)].replace('solid', 'none').replaceAll('px', '').replaceAll(',', ' '));
}

function drawWords() {
  const words = statusWords();
  put(find('status-words'), words);
  const status = find('status-words');
  if (status) mark(status.parentElement, 's', state.state);
  if (state.state !== spokenState) {
    spokenState = state.state;
    put(find('spoken'), state.state === 'running' ? 'Writing…' : words);
  }
  for (const column of columnList()) {
    const head = heads[column] && heads[column].isConnected ? heads[column] : document.querySelector(`#pane-${PANES[column]} .pane-head`);
    heads[column] = head;
    if (!head) continue;
    put(head.querySelector('.pane-name'), idea.names[column]);
    const count = tokens[column].length;
    const rate = state.state === 'running' && state.rate ? ` · ${Math.round(state.rate)}/s` : '';
    put(head.querySelector('.pane-stats'), count ? plural(count, unit()) + rate : '');
  }
  drawRecorded();
  document.documentElement.toggleAttribute('data-branches', branch.count > 1);
  put(find('branch-words'), `${branch.current} of ${branch.count}`);
  mark(document.documentElement, 'state', state.state);
  tellPage('state');
}

// Read once a theme: asking for computed styles at every frame makes the browser lay the page out again.
let palette = null;

function colours() {
  if (palette) return palette;
  const style = getComputedStyle(element);
  const get = (name) => style.getPropertyValue(name).trim();
  palette = {
    v: PANES.map((_, look) => get(`--v${look}`)), ink: get('--ink'), ink3: get('--ink3'), line: get('--line'),
    edge: get('--edge'), surf: get('--surf'), surf2: get('--surf2'), font: style.fontFamily,
  };
  palette.shades = shades(palette);
  return palette;
}

// Colour of a cosine of (i - 127) / 127: full at 0.95, and small values lifted so that they can be seen.
function shades(colour) {
  const channels = (value) => [1, 3, 5].map((i) => parseInt(value.slice(i, i + 2), 16));
  const [base, less, more] = [colour.surf2, colour.v[1], colour.v[2]].map(channels);
  return Array.from({ length: 255 }, (_, i) => {
    const share = Math.min(1, Math.abs(i - 127) / 127 / 0.95) ** 0.72;
    const full = i < 127 ? less : more;
    return `rgb(${base.map((channel, k) => Math.round(channel + (full[k] - channel) * share)).join(' ')})`;
  });
}

// The token that chart and answers speak of: under the pointer, else the one kept, else none (then the newest counts).
const chosen = () => hover || pinned;

// ---------------------------------------------------------------- the line chart

// Plotly is a large script, half a second of a slow machine's time. The lines that came with the page's file
// (steering/ui/first_paint.py) stand in for it until something else must be drawn, a pointer or the keyboard comes near,
// or somebody who is there has done nothing for a while.
const QUIET = 5000; // ms
let plotly = null;
let still = null;

// Resolves when Plotly is there, or could not be had; then the next call tries again.
function loadPlotly() {
  plotly ||= new Promise((resolve) => {
    const script = document.createElement('script');
    script.src = element.querySelector('.scope').dataset.plotly;
    script.onload = () => { schedule(); resolve(); };
    script.onerror = () => { plotly = null; resolve(); };
    document.head.append(script);
  });
  return plotly;
}

function standIn() {
  const lines = find('first-paint')?.shadowRoot?.querySelector('.lines');
  if (!lines || window.Plotly) return;
  still = lines.cloneNode(true);
  element.querySelector('.plot').append(still);
  for (const kind of ['pointerenter', 'focusin', 'touchstart']) {
    find('sc-linecard').addEventListener(kind, () => loadPlotly(), { once: true, passive: true });
  }
  const idle = window.requestIdleCallback || ((then) => then()); // Safari has none
  let timer = 0;
  const wait = () => {
    clearTimeout(timer);
    if (!plotly) timer = setTimeout(() => idle(() => loadPlotly()), QUIET);
  };
  for (const kind of ['pointerdown', 'keydown', 'wheel']) addEventListener(kind, wait, { passive: true, capture: true });
  addEventListener('pointermove', wait, { passive: true, once: true });
}
standIn();

// Whether the lines that stand in are those that Plotly would draw.
function standsIn() {
  if (!still) return false;
  if (!run) return true; // the log is still to be read
  still.dataset.run ??= String(run.run);
  return still.dataset.run === String(run.run) && isRecorded() && !isReplaying() && !chosen()
    && columnCount() === still.querySelectorAll('.name').length && !RUNNING.includes(state.state);
}

function drawChart() {
  if (!size.chart.width) return;
  if (!window.Plotly) {
    put(find('sc-which'), whichWords(chosen(), shownSeries()));
    if (!standsIn()) loadPlotly();
    return;
  }
  const left = chartDue - performance.now();
  if (left > 0) {
    if (!chartTimer) chartTimer = setTimeout(() => { chartTimer = 0; schedule(); }, left);
    return;
  }
  const started = performance.now();
  const layers = run ? run.layers : 0;
  const at = chosen();
  const series = shownSeries();
  put(find('sc-which'), whichWords(at, series));
  const first = !line.layout;
  window.Plotly.react(line, traces(series, layers), chartLayout(layers), {
    displayModeBar: false, doubleClick: 'reset', responsive: false, showTips: false,
  });
  if (first) {
    line.on('plotly_relayout', () => schedule());
    still?.remove();
  }
  placeNames(series, layers);
  const now = performance.now();
  chartDue = Math.max(started + CHART_INTERVAL, now + (now - started) * (1 / CHART_SHARE - 1));
}

// The token of each column that the chart draws.
function shownSeries() {
  const at = chosen();
  return columnList().map((column) => (at ? tokens[column][at.place] : tokens[column].at(-1)));
}

function whichWords(at, series) {
  if (!longest()) return '';
  if (!at) return RUNNING.includes(state.state) || isReplaying() ? 'newest token' : 'last token';
  const token = series[shown] || series.find(Boolean);
  return `token ${at.place + 1}: ${quoted(token ? token.text : '')}`;
}

const quoted = (text) => `“${text.trim() || (text.includes('\n') ? '↵' : '␣')}”`;

function traces(series, layers) {
  const { v } = colours();
  const x = Array.from({ length: layers }, (_, i) => i);
  return series.map((token, which) => ({
    x, y: token ? Array.from(token.cosines) : x.map(() => null),
    mode: 'lines', name: plain(idea.short[which]),
    line: { color: v[looksOf(which)], dash: DASHES[looksOf(which)], width: WIDTHS[looksOf(which)] },
    hovertemplate: '%{y:.2f}',
  }));
}

// Plotly takes some tags in its texts for markup; a name has none.
const plain = (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');

function layerTicks(layers) {
  if (!layers) return [];
  const step = layers > 40 || size.chart.width < 330 ? 8 : 4;
  const kept = [0, layers - 1];
  if (run.layer !== undefined && !kept.includes(run.layer)) kept.push(run.layer);
  for (let i = step; i < layers - 1; i += step) {
    if (kept.every((other) => Math.abs(other - i) > step / 2 - 0.5)) kept.push(i);
  }
  return kept.sort((a, b) => a - b);
}

function chartLayout(layers) {
  const colour = colours();
  const ticks = layerTicks(layers);
  const axis = { zeroline: false, tickangle: 0, tickfont: { size: 12, color: colour.ink3 }, fixedrange: touch };
  const rows = [-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1].filter((value) => value > lower && value < upper);
  return {
    margin: MARGIN, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
    font: { family: colour.font, size: 12, color: colour.ink3 }, showlegend: false, hovermode: 'x unified',
    hoverlabel: { bgcolor: colour.surf, bordercolor: colour.line, font: { color: colour.ink, size: 12 } },
    uirevision: run ? String(run.run) : 'none', dragmode: touch ? false : 'zoom', autosize: false,
    width: size.chart.width, height: size.chart.height,
    xaxis: {
      ...axis, range: [-0.3, Math.max(layers, 2) - 0.9], tickvals: ticks, showgrid: false, ticks: 'outside', ticklen: 4,
      tickcolor: colour.line, showline: true, linecolor: colour.line, unifiedhovertitle: { text: 'layer %{x}' },
      ticktext: ticks.map((i) => (i === 0 ? 'first' : i === layers - 1 ? 'last' : String(i))),
      title: { text: 'layer', font: { size: 12, color: colour.ink3 }, standoff: 2 },
    },
    yaxis: {
      ...axis, range: [lower, upper], tickvals: rows, gridcolor: colour.line,
      ticktext: rows.map((value) => (value === 0 ? 'none' : value.toFixed(2).replace('-', '−'))),
    },
    shapes: chartShapes(colour, layers),
  };
}

function chartShapes(colour, layers) {
  const zero = { type: 'line', xref: 'paper', x0: 0, x1: 1, y0: 0, y1: 0, layer: 'below', line: { color: colour.edge, width: 1 } };
  if (!layers || run.layer === undefined) return [zero];
  const steered = { type: 'line', yref: 'paper', x0: run.layer, x1: run.layer, y0: 0, y1: 1, line: { color: colour.ink, width: 1.5, dash: '2px,3px' } };
  return [zero, steered];
}

// Where the name of each line stands, from the top of a plot of that height: at its end, pushed apart to 16 px.
function lineEnds(series, [y0, y1], height) {
  const ends = [];
  series.forEach((token, which) => {
    if (token) ends.push({ which, at: ((y1 - token.cosines.at(-1)) / (y1 - y0)) * height });
  });
  ends.sort((a, b) => a.at - b.at || b.which - a.which);
  for (let i = 0; i < ends.length; i += 1) ends[i].at = Math.max(ends[i].at, i ? ends[i - 1].at + 16 : 8);
  for (let i = ends.length - 1; i >= 0; i -= 1) {
    ends[i].at = Math.min(ends[i].at, height - 8 - 16 * (ends.length - 1 - i));
  }
  return ends;
}

// Names stand at the line ends, so that they never cover one another; above the chart in plain elements,
// because Plotly's annotations took a third of the time of a drawing.
function placeNames(series, layers) {
  const [x0, x1] = line.layout.xaxis.range;
  const width = size.chart.width - MARGIN.l - MARGIN.r;
  const ends = lineEnds(series, line.layout.yaxis.range, size.chart.height - MARGIN.t - MARGIN.b);
  names.forEach((name, which) => {
    const end = ends.find((other) => other.which === which);
    name.hidden = !end;
    if (!end) return;
    put(name, idea.short[which]);
    name.style.translate = `${MARGIN.l + width + 8}px ${Math.round(MARGIN.t + end.at - 8)}px`;
  });
  const at = layers && run.layer !== undefined ? ((run.layer - x0) / (x1 - x0)) * width : -1;
  steered.hidden = at < 0 || at > width;
  if (steered.hidden) return;
  put(steered, size.chart.width < 480 ? idea.added : `${idea.added}, at layer ${run.layer}`);
  const onLeft = at > width * 0.42;
  steered.style.translate = onLeft
    ? `calc(${Math.round(MARGIN.l + at - 6)}px - 100%) ${MARGIN.t}px` : `${Math.round(MARGIN.l + at + 6)}px ${MARGIN.t}px`;
}

// ---------------------------------------------------------------- the map

const size = { map: { width: 0, height: 0 }, chart: { width: 0, height: 0 } };
const PAD = { left: 48, right: 0, top: 16, bottom: 20 };
let geometry = null;

function drawMap() {
  const { width, height } = size.map;
  if (!width) return;
  const count = longest();
  const layers = run ? run.layers : 0;
  find('sc-empty').hidden = count > 0;
  const ratio = window.devicePixelRatio || 1;
  for (const sheet of [canvas, cells]) {
    if (sheet.width === Math.round(width * ratio) && sheet.height === Math.round(height * ratio)) continue;
    sheet.width = Math.round(width * ratio);
    sheet.height = Math.round(height * ratio);
    cellsKey = '';
  }
  const pen = canvas.getContext('2d');
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  const columns = COLUMN_STEPS.find((step) => step >= count) || count;
  geometry = {
    columns, layers, left: PAD.left, top: PAD.top, width: width - PAD.left - PAD.right, height: height - PAD.top - PAD.bottom,
  };
  const x = (column) => Math.round((geometry.left + (column / columns) * geometry.width) * ratio);
  const y = (layer) => Math.round((geometry.top + (1 - layer / Math.max(layers, 1)) * geometry.height) * ratio);
  drawCells(x, y);
  pen.drawImage(cells, 0, 0);
  drawMapMarks(pen, colours(), ratio, x, y, count);
  drawReading();
}

// The coloured cells, on a sheet of their own to which each frame adds only the new columns.
function drawCells(x, y) {
  const { columns, layers } = geometry;
  const colour = colours();
  const pen = cells.getContext('2d');
  const key = [run && run.run, shown, columns, layers, colour.surf2].join();
  if (key !== cellsKey) {
    cellsKey = key;
    cellsDrawn = 0;
    pen.clearRect(0, 0, cells.width, cells.height);
    pen.globalAlpha = 0.45;
    pen.fillStyle = colour.surf2;
    pen.fillRect(x(0), y(layers || 1), x(columns) - x(0), y(0) - y(layers || 1));
    pen.globalAlpha = 1;
  }
  const list = tokens[shown];
  for (; cellsDrawn < list.length; cellsDrawn += 1) {
    const from = x(cellsDrawn);
    const wide = x(cellsDrawn + 1) - from;
    for (let layer = 0; layer < layers; layer += 1) {
      const upperEdge = y(layer + 1);
      pen.fillStyle = colour.shades[Math.round(list[cellsDrawn].cosines[layer] * 127) + 127];
      pen.fillRect(from, upperEdge, wide, y(layer) - upperEdge);
    }
  }
}

function drawMapMarks(pen, colour, ratio, x, y, count) {
  const { layers, columns } = geometry;
  const one = Math.max(1, Math.round(ratio));
  pen.font = `${11.5 * ratio}px ${colour.font}`;
  pen.textBaseline = 'middle';
  const write = (text, px, py, align, ink) => {
    pen.fillStyle = ink;
    pen.textAlign = align;
    pen.fillText(text, px, py);
  };
  if (!layers) return;
  const labelX = x(0) - 8 * ratio;
  if (run.layer !== undefined) {
    const level = y(run.layer);
    pen.strokeStyle = colour.ink;
    pen.lineWidth = one;
    pen.setLineDash([2 * one, 2 * one]);
    pen.beginPath();
    pen.moveTo(x(0), level + one / 2);
    pen.lineTo(x(columns), level + one / 2);
    pen.stroke();
    pen.setLineDash([]);
    write(`${run.layer} ▸`, x(0) - 3 * ratio, level - 3 * ratio, 'right', colour.ink);
  }
  const clear = (py) => run.layer === undefined || Math.abs(py - y(run.layer)) > 16 * ratio;
  const high = y(layers) + 8 * ratio;
  const low = y(0) - 8 * ratio;
  if (clear(high)) write('last', labelX, high, 'right', colour.ink3);
  if (clear(low)) write('first', labelX, low, 'right', colour.ink3);
  if (count) {
    const foot = y(0) + 11 * ratio;
    const own = tokens[shown].length;
    const crowded = moved.some((move) => x(move.number - 1) < x(0) + 56 * ratio);
    if (!crowded) write('token 1', x(0), foot, 'left', colour.ink3);
    if (x(own) - x(0) > 90 * ratio) write(String(own), x(own), foot, 'right', colour.ink3);
    drawMoves(pen, colour, ratio, x, y);
    drawPart(pen, colour, ratio, x, y, write);
  }
  drawCursor(pen, colour, ratio, x, y);
}

function drawMoves(pen, colour, ratio, x, y) {
  const last = moved.at(-1);
  for (const move of moved) {
    const px = x(move.number - 1);
    const py = y(0) + 3 * ratio;
    pen.fillStyle = colour.ink;
    pen.beginPath();
    pen.moveTo(px, py);
    pen.lineTo(px - 4 * ratio, py + 6 * ratio);
    pen.lineTo(px + 4 * ratio, py + 6 * ratio);
    pen.fill();
    if (move !== last) continue;
    const words = `strength ${move.coefficient}`;
    const wide = pen.measureText(words).width + 16 * ratio;
    const left = px + wide > x(geometry.columns) ? px - wide : px + 8 * ratio;
    pen.clearRect(left - 3 * ratio, py, wide - 8 * ratio, 16 * ratio);
    pen.textAlign = 'left';
    pen.fillText(words, left, y(0) + 11 * ratio);
  }
}

function drawPart(pen, colour, ratio, x, y, write) {
  const part = parts[shown];
  if (part < 0) return;
  const px = x(part);
  pen.fillStyle = colour.ink;
  pen.fillRect(px, 2 * ratio, Math.max(1, Math.floor(1.5 * ratio)), y(0) - 2 * ratio);
  const words = 'answers part here';
  const fits = px + pen.measureText(words).width + 6 * ratio < x(geometry.columns);
  write(words, px + (fits ? 6 : -5) * ratio, 8 * ratio, fits ? 'left' : 'right', colour.ink);
}

function drawCursor(pen, colour, ratio, x, y) {
  const at = chosen();
  if (!at) return;
  pen.strokeStyle = colour.ink;
  pen.lineWidth = 1.5 * ratio;
  const from = x(at.place);
  const wide = x(at.place + 1) - from;
  pen.strokeRect(from, y(geometry.layers), wide, y(0) - y(geometry.layers));
  const upperEdge = y(at.layer + 1);
  pen.lineWidth = 2 * ratio;
  pen.strokeRect(from - ratio, upperEdge - ratio, wide + 2 * ratio, y(at.layer) - upperEdge + 2 * ratio);
}

function drawReading() {
  const reading = find('sc-read');
  const at = chosen();
  const token = at && tokens[shown][at.place];
  if (!token) {
    put(reading, restWords());
    return;
  }
  const bold = document.createElement('b');
  bold.textContent = quoted(token.text);
  const kept = pinned && !hover ? ' · kept' : '';
  reading.replaceChildren(bold, ` token ${at.place + 1} · layer ${at.layer} · cosine ${shownCosine(token, at.layer)}${kept}`);
}

const shownCosine = (token, layer) => token.cosines[layer].toFixed(2).replace(/^-0\.00$/, '0.00').replace('-', '−');

function restWords() {
  if (!longest()) return REST_WORDS;
  const traced = tokens[shown].some((token) => token.cosines.some((value) => Math.abs(value) > 0.01));
  if (looksOf(shown) === 1 && tokens[shown].length && !traced) return 'No trace at any layer: it is taken out everywhere';
  return `${REST_WORDS} ${touch ? 'Tap it.' : 'Click it.'}`;
}

// ---------------------------------------------------------------- pointer and keys on the map

function cellAt(event) {
  if (!geometry || !geometry.layers) return null;
  const area = box.getBoundingClientRect();
  const place = Math.floor(((event.clientX - area.left - geometry.left) / geometry.width) * geometry.columns);
  const layer = Math.floor((1 - (event.clientY - area.top - geometry.top) / geometry.height) * geometry.layers);
  const inside = place >= 0 && place < tokens[shown].length && layer >= 0 && layer < geometry.layers;
  return inside ? { place, layer } : null;
}

const same = (a, b) => (a && b ? a.place === b.place && a.layer === b.layer : a === b);

function point(cell) {
  if (same(cell, hover)) return;
  hover = cell;
  chartDue = Math.min(chartDue, performance.now() + CHART_INTERVAL / 2);
  schedule();
}

function keep(cell) {
  pinned = pinned && cell && pinned.place === cell.place && pinned.layer === cell.layer ? null : cell;
  if (!pinned) hover = null;
  schedule();
}

box.addEventListener('pointermove', (event) => { if (event.pointerType === 'mouse') point(cellAt(event)); });
box.addEventListener('pointerleave', () => point(null));
box.addEventListener('blur', () => point(null));
box.addEventListener('click', (event) => keep(cellAt(event)));
box.addEventListener('keydown', (event) => {
  const count = tokens[shown].length;
  if (!count) return;
  const at = chosen() || { place: count - 1, layer: run.layer ?? 0 };
  const moves = {
    ArrowLeft: [at.place - (chosen() ? 1 : 0), at.layer], ArrowRight: [at.place + 1, at.layer],
    ArrowUp: [at.place, at.layer + 1], ArrowDown: [at.place, at.layer - 1], Home: [0, at.layer], End: [count - 1, at.layer],
  };
  if (event.key in moves) {
    const [place, layer] = moves[event.key];
    point({ place: Math.max(0, Math.min(count - 1, place)), layer: Math.max(0, Math.min(run.layers - 1, layer)) });
    const token = tokens[shown][hover.place];
    put(find('spoken'), `${quoted(token.text)} token ${hover.place + 1}, layer ${hover.layer}, cosine ${shownCosine(token, hover.layer)}`);
  } else if (event.key === 'Enter') {
    keep(at);
  } else if (event.key === 'Escape') {
    hover = pinned = null;
    schedule();
  } else {
    return;
  }
  event.preventDefault();
});

function showColumn(column) {
  shown = column;
  for (const button of element.querySelectorAll('#sc-toggles button')) {
    button.setAttribute('aria-pressed', String(Number(button.dataset.column) === column));
  }
  hover = null;
  schedule();
}

element.querySelector('#sc-toggles').addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (button) showColumn(Number(button.dataset.column));
});

// ---------------------------------------------------------------- marks in the answers (no change of Gradio's DOM)

const THOUGHT = '.thought-group';
const ANSWERS = '.bot .prose, .bot .message-content';

const marks = {};
if (window.CSS && CSS.highlights) {
  for (const name of ['same', ...DASHES.map((_, look) => `part-${look}`), 'chosen']) {
    marks[name] = new Highlight();
    marks[name].priority = name === 'chosen' ? 2 : 1;
    CSS.highlights.set(name, marks[name]);
  }
}

// Offsets of the first `count` tokens in the newest answer of a pane; null for those of a thought, which stands in a
// message of its own. A token that the page shows otherwise than the model wrote it ends the walk: better no mark than
// a wrong one.
function locate(which, count) {
  const pane = find(`pane-${PANES[which]}`);
  const said = pane ? pane.querySelectorAll(isReplaying() ? '.replayed .said' : ANSWERS) : [];
  const answers = [...said].filter((message) => !message.closest(THOUGHT));
  const answer = answers[answers.length - 1];
  if (!answer) return null;
  const walker = document.createTreeWalker(answer, NodeFilter.SHOW_TEXT);
  const nodes = [];
  let text = '';
  while (walker.nextNode()) {
    nodes.push({ node: walker.currentNode, from: text.length });
    text += walker.currentNode.data;
  }
  const spans = tokens[which].slice(0, afterThought(which, text)).map(() => null);
  let at = text.length - text.trimStart().length;
  let begun = false;
  for (let i = spans.length; i < count && i < tokens[which].length; i += 1) {
    const piece = begun ? tokens[which][i].text : tokens[which][i].text.trimStart();
    if (!text.startsWith(piece, at)) break;
    spans.push([at, at + piece.length]);
    at += piece.length;
    begun ||= piece !== '';
  }
  return { nodes, spans, text };
}

// How many tokens come before the answer: those of a thought.
function afterThought(which, text) {
  if (!find(`pane-${PANES[which]}`).querySelector(THOUGHT)) return 0;
  const all = tokens[which].map((token) => token.text).join('');
  const from = all.lastIndexOf(text.trim());
  if (from <= 0 || !text.trim()) return 0;
  let passed = 0;
  let count = 0;
  while (count < tokens[which].length && passed + tokens[which][count].text.trimEnd().length <= from) {
    passed += tokens[which][count].text.length;
    count += 1;
  }
  return count;
}

function rangeOf(found, from, to) {
  const place = (offset, end) => {
    let index = found.nodes.findLastIndex((entry) => (end ? entry.from < offset : entry.from <= offset));
    if (index < 0) index = 0;
    return [found.nodes[index].node, offset - found.nodes[index].from];
  };
  const range = document.createRange();
  range.setStart(...place(from, false));
  range.setEnd(...place(to, true));
  return range;
}

function markAnswers() {
  if (!marks.same) return;
  for (const mark of Object.values(marks)) mark.clear();
  const at = chosen();
  for (const which of columnList()) {
    const part = parts[which];
    const needed = Math.max(part, at ? at.place : -1) + 1;
    if (!needed) continue;
    const found = locate(which, needed);
    if (!found || !found.nodes.length) continue;
    const word = (index) => {
      const [from, to] = found.spans[index];
      const lead = found.text.slice(from, to).search(/\S/);
      return rangeOf(found, from + Math.max(0, lead), to);
    };
    if (part >= 0 && found.spans[part]) {
      const [start] = found.spans.find(Boolean);
      if (found.spans[part][0] > start) marks.same.add(rangeOf(found, start, found.spans[part][0]));
      marks[`part-${looksOf(which)}`].add(word(part));
    }
    if (at && found.spans[at.place]) marks.chosen.add(word(at.place));
  }
}

// ---------------------------------------------------------------- what else makes a new drawing necessary

function watchPanes() {
  const panes = find('panes');
  if (!panes) {
    setTimeout(watchPanes, 50);
    return;
  }
  let marking = false;
  new MutationObserver(() => {
    if (panes.querySelectorAll('.pane-head').length !== panesMounted) schedule();
    if (marking || !chosen() && parts[0] < 0) return;
    marking = true;
    requestAnimationFrame(() => { marking = false; markAnswers(); });
  }).observe(panes, { childList: true, characterData: true, subtree: true });
  schedule();
}
watchPanes();

// A click on a word of an answer keeps its token, unless the click ends a selection of text.
function clickWord(event) {
  const which = PANES.findIndex((pane) => event.target.closest && event.target.closest(`#pane-${pane} .bot`));
  if (which < 0 || !getSelection().isCollapsed || !run) return;
  const caret = document.caretPositionFromPoint ? document.caretPositionFromPoint(event.clientX, event.clientY) : null;
  const found = caret && locate(which, tokens[which].length);
  const entry = found && found.nodes.find(({ node }) => node === caret.offsetNode);
  if (!entry) return;
  const at = entry.from + caret.offset;
  const place = found.spans.findIndex((span) => span && at >= span[0] && at < span[1]);
  if (place < 0) return;
  showColumn(which);
  keep({ place, layer: run.layer ?? run.layers - 1 });
}
document.addEventListener('click', clickWord);

// Sizes come from here alone: asking the boxes at every frame would lay the page out again.
const resized = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) size[target === box ? 'map' : 'chart'] = contentRect;
  chartDue = 0;
  schedule();
});
resized.observe(line);
resized.observe(box);
new MutationObserver(() => {
  palette = null;
  cellsKey = '';
  chartDue = 0;
  schedule();
}).observe(document.body, { attributes: true, attributeFilter: ['class'] });

watch('value', update);
update();
