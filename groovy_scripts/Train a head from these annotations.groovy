head = 'my-head'          // its name; QuPath asks for it if there is a window
model = 'mine'            // the model that is to have it, made if it is not there
base = 'default'          // the model whose features it learns on
steps = null              // of learning; null: as many as the server takes
// ---- end of settings ----
// Trains a head from the classified annotations of the project's images.

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

qupath.run { qupath.train(model: model, head: head, base: base, steps: steps) }
