// How numbers and names are written for people: as appliance/cli/text.py does.

export const NONE = "-";

/** Spell out control characters and odd spaces of text from outside. */
export function plain(text) {
  return String(text).replace(/[\p{C}\p{Z}]/gu, (char) => {
    if (char === " ") return char;
    const code = char.codePointAt(0);
    if (code < 0x100) {
      const short = { 9: "\\t", 10: "\\n", 13: "\\r" }[code];
      return short ?? `\\x${code.toString(16).padStart(2, "0")}`;
    }
    if (code < 0x10000) return `\\u${code.toString(16).padStart(4, "0")}`;
    return `\\U${code.toString(16).padStart(8, "0")}`;
  });
}

/** Write microseconds as milliseconds, to about three digits. */
export function milliseconds(us) {
  const ms = us / 1000;
  if (Math.abs(ms) < 1) return ms.toFixed(2);
  return Math.abs(ms) < 100 ? ms.toFixed(1) : ms.toFixed(0);
}

/** Write a time span in its two largest units. */
export function duration(seconds) {
  const whole = Math.trunc(seconds);
  if (whole < 60) return seconds < 10 ? `${seconds.toFixed(1)} s` : `${whole} s`;
  if (whole < 3600) return `${Math.trunc(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) {
    return `${Math.trunc(whole / 3600)} h ${Math.trunc((whole % 3600) / 60)} min`;
  }
  return `${Math.trunc(whole / 86400)} d ${Math.trunc((whole % 86400) / 3600)} h`;
}

/** Write a number that may not be known. */
export function optional(value, digits = 1) {
  return value === null || value === undefined ? NONE : value.toFixed(digits);
}

/** Write a moment of the wall clock (seconds since 1970) as local time of day. */
export function clock(unixS, digits = 0) {
  const date = new Date(unixS * 1000);
  const two = (number) => String(number).padStart(2, "0");
  const text = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  const milliseconds = String(date.getMilliseconds()).padStart(3, "0");
  return digits ? `${text}.${milliseconds.slice(0, digits)}` : text;
}
