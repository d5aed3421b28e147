// Runs that were recorded earlier.

const isRecorded = () => Boolean(run && run.recorded);
const isReplaying = () => false;
const replayLength = () => 0;
function endReplay() {}
function showFromTheStart() {}
function drawRecorded() {}
