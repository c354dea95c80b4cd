"""The paper's human study (§4, A1.2): people compare two methods' images in a browser, blind and in random order."""
