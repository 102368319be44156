// Unpacks the browser, its fonts and the libraries that a bare machine lacks into TMPDIR, and prints its path.
import chromium from "@sparticuz/chromium";

console.log(await chromium.executablePath());
