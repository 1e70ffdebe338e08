model = 'default'         // one of the server's models; "Check the connection" lists them
heads = []                // of that model, as ['tissue', 'glands']; []: all that run unasked
smallestObject = 200      // um^2: smaller ones are merged into what surrounds them
// ---- end of settings ----
// Segments the selected area annotations of the open image.

def home = System.getenv('QUPATH_PATHSEGDIFF_HOME') ?:
    ['@HOME@', "${System.getProperty('user.home')}/.qupath-pathsegdiff"].find { new File(it, 'groovy').directory }
if (!new File(home ?: '', 'groovy/InQuPath.groovy').file) {
    def sentence = 'PathSegDiff: error: this script is not installed here; run "qupath-pathsegdiff scripts install"'
    println(sentence)  // where QuPath's window shows it
    System.err.println(sentence)
    return
}
def loader = new GroovyClassLoader(getClass().classLoader)
loader.addClasspath("$home/groovy")
def qupath = loader.loadClass('InQuPath').getConstructor(Script, File).newInstance(this, new File(home))

qupath.run { qupath.segmentSelection(model: model, heads: heads, smallestObject: smallestObject) }
