file = 'pathsegdiff/class_areas_qupath.tsv'    // in the project's folder, unless absolute
// ---- end of settings ----
// Writes the class areas of all images of the project as a table. Of tissue and slide, which no annotation
// stands for, QuPath knows the objects only: their rows have no percent, and empty classes no row.

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

qupath.run { qupath.exportClassAreas(file) }
