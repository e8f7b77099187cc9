// Says so when the mirror no longer answers; the events begin again by themselves.
"use strict";
const lost = document.getElementById("lost");
document.body.addEventListener("htmx:sseError", () => { lost.hidden = false; });
document.body.addEventListener("htmx:sseOpen", () => { lost.hidden = true; });
