// The plot as a picture to take along: the chart over the map of the column in view, in the colours of the theme. What
// a person or a model wrote gets into the SVG as text nodes and into the PNG by fillText.

const SHEET = { width: 1000, chart: 420, map: 300, head: 70, gap: 58, pad: 24 };
const SVG = 'http://www.w3.org/2000/svg';

const sheetHeight = () => SHEET.head + SHEET.chart + SHEET.gap + SHEET.map + SHEET.pad;

// The words of the sheet with their places: [text, x, y, size, weight, colour, anchor].
function sheetWords(series) {
  const colour = colours();
  const top = SHEET.head + SHEET.chart;
  const words = [
    ['How much of the idea is inside, layer by layer', SHEET.pad, 30, 18, 650, colour.ink, 'start'],
    [`${idea.names.slice(1).join(' · ')} · ${whichWords(chosen(), series) || 'no token yet'}`, SHEET.pad, 54, 13, 400, colour.ink3, 'start'],
    [`The same, word by word: ${idea.names[shown]}`, SHEET.pad, top + 28, 15, 600, colour.ink, 'start'],
    ['last layer', SHEET.pad, top + SHEET.gap + 10, 12, 400, colour.ink3, 'start'],
    ['first', SHEET.pad, top + SHEET.gap + SHEET.map - 24, 12, 400, colour.ink3, 'start'],
    [plural(tokens[shown].length, 'token'), SHEET.width - SHEET.pad, top + 28, 13, 400, colour.ink3, 'end'],
  ];
  const inner = { width: SHEET.width - MARGIN.l - MARGIN.r, height: SHEET.chart - MARGIN.t - MARGIN.b };
  for (const end of lineEnds(series, [lower, upper], inner.height)) {
    words.push([idea.short[end.which], MARGIN.l + inner.width + 8, SHEET.head + MARGIN.t + end.at + 4, 12, 500, colour.v[looksOf(end.which)], 'start']);
  }
  if (run && run.layer !== undefined) {
    const x = MARGIN.l + ((run.layer + 0.3) / (Math.max(run.layers, 2) - 0.6)) * inner.width;
    words.push([`${idea.added}, at layer ${run.layer}`, x - 6, SHEET.head + MARGIN.t + 12, 12, 400, colour.ink, 'end']);
  }
  return words;
}

// The squares of the map: [x, y, width, height, colour].
function sheetSquares() {
  const list = tokens[shown];
  const layers = run ? run.layers : 0;
  const left = SHEET.pad + 72;
  const across = (SHEET.width - SHEET.pad - left) / Math.max(list.length, 1);
  const down = (SHEET.map - 20) / Math.max(layers, 1);
  const top = SHEET.head + SHEET.chart + SHEET.gap;
  return list.flatMap((token, place) => Array.from({ length: layers }, (_, layer) => [
    left + place * across, top + (layers - 1 - layer) * down, across, down, colours().shades[Math.round(token.cosines[layer] * 127) + 127],
  ]));
}

function sheetChart(format) {
  const layers = run ? run.layers : 0;
  const series = shownSeries();
  const layout = { ...chartLayout(layers), width: SHEET.width, height: SHEET.chart, hovermode: false };
  return window.Plotly.toImage({ data: traces(series, layers), layout }, { format, width: SHEET.width, height: SHEET.chart, scale: format === 'png' ? 2 : 1 });
}

async function sheetPng() {
  const picture = new Image();
  picture.src = await sheetChart('png');
  await picture.decode();
  const sheet = document.createElement('canvas');
  sheet.width = SHEET.width * 2;
  sheet.height = sheetHeight() * 2;
  const pen = sheet.getContext('2d');
  pen.scale(2, 2);
  pen.fillStyle = colours().surf;
  pen.fillRect(0, 0, SHEET.width, sheetHeight());
  pen.drawImage(picture, 0, SHEET.head, SHEET.width, SHEET.chart);
  for (const [x, y, width, height, colour] of sheetSquares()) {
    pen.fillStyle = colour;
    pen.fillRect(x, y, width + 0.5, height + 0.5);
  }
  for (const [text, x, y, points, weight, colour, anchor] of sheetWords(shownSeries())) {
    pen.fillStyle = colour;
    pen.font = `${weight} ${points}px ${colours().font}`;
    pen.textAlign = anchor;
    pen.fillText(text, x, y, SHEET.width - 2 * SHEET.pad);
  }
  return new Promise((done) => { sheet.toBlob(done, 'image/png'); });
}

async function sheetSvg() {
  const address = await sheetChart('svg');
  const source = decodeURIComponent(address.slice(address.indexOf(',') + 1));
  const chart = new DOMParser().parseFromString(source, 'image/svg+xml').documentElement;
  const sheet = document.implementation.createDocument(SVG, 'svg');
  const add = (name, values, text = '') => {
    const node = sheet.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(values)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    sheet.documentElement.append(node);
    return node;
  };
  const frame = { width: SHEET.width, height: sheetHeight(), viewBox: `0 0 ${SHEET.width} ${sheetHeight()}` };
  for (const [key, value] of Object.entries(frame)) sheet.documentElement.setAttribute(key, value);
  add('rect', { width: SHEET.width, height: sheetHeight(), fill: colours().surf });
  chart.setAttribute('y', SHEET.head);
  sheet.documentElement.append(sheet.importNode(chart, true));
  for (const [x, y, width, height, fill] of sheetSquares()) {
    add('rect', { x: x.toFixed(2), y: y.toFixed(2), width: width.toFixed(2), height: height.toFixed(2), fill, 'shape-rendering': 'crispEdges' });
  }
  for (const [text, x, y, points, weight, fill, anchor] of sheetWords(shownSeries())) {
    add('text', { x, y, fill, 'font-size': points, 'font-weight': weight, 'text-anchor': anchor, 'font-family': colours().font }, text);
  }
  return new XMLSerializer().serializeToString(sheet);
}

document.addEventListener('click', async (event) => {
  const button = event.target.closest ? event.target.closest('#save-png, #save-svg') : null;
  if (!button) return;
  await loadPlotly();
  if (!window.Plotly || !longest()) {
    put(find('spoken'), 'There is no plot to save yet.');
    return;
  }
  if (button.id === 'save-png') window.steeringPage.save('steering-plot.png', await sheetPng(), 'image/png');
  else window.steeringPage.save('steering-plot.svg', await sheetSvg(), 'image/svg+xml');
});
