/** A process of a device that never says a word. */
setInterval(() => undefined, 1000);
