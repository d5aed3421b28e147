// What each answer might have said at a token: opens over the chart, and asks the server only when it is opened.

let likeliest = new Map();

function forgetLikeliest() {
  likeliest = new Map();
}

function readLikeliest(record) {
  const bar = record.indexOf('|');
  likeliest.set(Number(record.slice(0, bar)), JSON.parse(record.slice(bar + 1)));
}

function drawLook() {}
