"""What the page says, in the languages that it speaks."""

from collections.abc import Mapping
from types import MappingProxyType

ENGLISH, CHINESE = "en", "zh"
LANGUAGES = (ENGLISH, CHINESE)

_CHINESE: Mapping[str, str] = MappingProxyType(
    {
        "Now": "实时",
        "Endpoints": "上游节点",
        "Store": "存储",
        "All is well.": "一切正常。",
        "Needs attention": "需要处理",
        "Served": "已提供",
        "Fetched": "已拉取",
        "Saved": "已节省",
        "Hits": "命中率",
        "of {count} lookups": "共 {count} 次查询",
        "since the start, {duration} ago": "自 {duration} 前启动以来",
        "in {count} requests": "共 {count} 次请求",
        "from upstream": "来自上游",
        "The line": "线路",
        "{rate}/s from upstream now": "当前从上游 {rate}/s",
        "the last two minutes": "最近两分钟",
        "Downloads": "下载",
        "Nothing is being downloaded.": "当前没有下载任务。",
        "{count} wait for a slot": "{count} 个在排队",
        "Repository": "仓库",
        "Digest": "摘要",
        "Progress": "进度",
        "Rate": "速率",
        "Left": "剩余时间",
        "Readers": "读取者",
        "State": "状态",
        "Upstream": "上游",
        "Endpoint": "节点",
        "Received": "已接收",
        "Pulls left": "剩余拉取次数",
        "up": "正常",
        "down": "不可用",
        "limited": "被限速",
        "sealed: never asked": "已封存：从不询问",
        "again in {duration}": "{duration} 后重试",
        "Used": "已使用",
        "Limit": "上限",
        "Free on the disk": "磁盘剩余",
        "kept free": "保留空间",
        "Blobs": "数据块",
        "Where": "位置",
        "Connections": "连接数",
        "This page is no longer up to date: the mirror does not answer. It tries again by itself.":
            "页面已不是最新：镜像服务没有响应，正在自动重试。",
        "Skip to the content": "跳到正文",
        "unknown": "未知",
        "History": "历史",
        "Pulls": "拉取记录",
        "Waste": "浪费",
        "Tell apart by": "分组方式",
        "everything": "全部",
        "served, and not fetched for that": "已提供且无需为此拉取",
        "in {count} pulls": "共 {count} 次拉取",
        "of it for nobody so far: {size}": "其中尚无人使用：{size}",
        "{count} requests could not be served": "{count} 次请求未能满足",
        "Bytes": "流量",
        "Requests": "请求",
        "All": "全部请求",
        "Wasted": "浪费流量",
        "others of {upstream}": "{upstream} 的其他仓库",
        "Nothing was pulled.": "没有拉取记录。",
        "When": "时间",
        "Image": "镜像",
        "Client": "客户端",
        "Result": "结果",
        "Took": "用时",
        "private": "私有",
        "What costs the line most": "占用线路最多",
        "Nothing was fetched.": "没有从上游拉取任何内容。",
        "Fetched more than once": "重复拉取",
        "Size": "大小",
        "Times": "次数",
        "Too much": "多余流量",
        "Nothing.": "无。",
        "Fetched and never pulled": "已拉取但无人使用",
        "Of use": "已使用流量",
        "The last": "最近",
        "24 hours": "24 小时",
        "7 days": "7 天",
        "30 days": "30 天",
        "1 year": "1 年",
        "it was here, and upstream was not asked": "本地已有，未询问上游",
        "it was pulled here for the first time": "首次在此拉取",
        "it was here once, and had made room for others": "曾在本地，已因空间被清理",
        "the image is known, and nobody had pulled this platform of it":
            "镜像已知，但此平台首次被拉取",
        "it is here by other clients' own logins only, which opens it to nobody else":
            "仅由其他客户端自己的登录取得，不对他人开放",
        "the tag means another image than before": "标签已指向另一个镜像",
        "upstream was asked, and the tag still means the same": "已询问上游，标签未变",
        "upstream no longer has this tag; what it meant was served":
            "上游已无此标签，提供了原先的内容",
        "it was here by another name, and upstream confirmed this one":
            "本地以其他名称已有，上游已确认此名称",
        "it was on its way already, and this pull joined in": "已在下载中，此次拉取加入其中",
        "it cannot be kept here, and was passed on": "无法保存，已直接转发",
        "upstream could not be asked": "无法询问上游",
        "upstream did not answer in time": "上游未及时响应",
        "upstream refused to answer": "上游拒绝响应",
        "upstream sent something else than it had promised": "上游发送的内容与摘要不符",
        "upstream does not have it": "上游没有此内容",
        "upstream did not have it a moment ago": "上游刚才没有此内容",
        "it may not be pulled by this client": "此客户端无权拉取",
        "a fault of the mirror's own; see its log": "镜像服务自身故障，请查看日志",
        "Pinned images": "固定的镜像",
        "Nothing is pinned.": "没有固定的镜像。",
        "Here": "本地大小",
        "Pinned by": "来源",
        "the configuration": "配置文件",
        "an operator": "管理员",
        "complete": "完整",
        "incomplete": "不完整",
        "refused": "被拒绝",
        "Unpin": "取消固定",
        "Unpin {image}": "取消固定 {image}",
        "Fetched by the clock": "定时预热",
        "Next": "下次",
        "The last time": "上次结果",
        "in {duration}": "{duration} 后",
        "is running": "正在运行",
        "{count} images, {size} came": "{count} 个镜像，拉取了 {size}",
        "{count} failed": "{count} 个失败",
        "Pin, fetch or remove an image": "固定、预热或删除镜像",
        "Pin": "固定",
        "Fetch now": "立即预热",
        "Remove": "删除",
        "It is under way, or done.": "已开始或已完成。",
        "The mirror does not answer.": "镜像服务没有响应。",
    }
)  # fmt: skip


def choose(wanted: str | None, accepted: str | None) -> str:
    """The language that a browser is answered in: as asked for, else the first it accepts."""
    if wanted in LANGUAGES:
        return wanted
    for part in (accepted or "").split(","):
        language = part.partition(";")[0].strip().partition("-")[0].lower()
        if language in LANGUAGES:
            return language
    return ENGLISH


def say(language: str, phrase: str, **values: object) -> str:
    """A phrase in a language, with values put in."""
    text = _CHINESE.get(phrase, phrase) if language == CHINESE else phrase
    return text.format(**values) if values else text
